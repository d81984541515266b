"""Looks for bytes of a server that break a promise of the client, by coverage: ``make fuzz``.

    python -m fuzz.fuzz_reply --seconds 300

The checks are those of ``tests/unit/fuzzing.py``. It needs atheris, which has wheels for CPython 3.10 to 3.14 on Linux,
x86_64; elsewhere `tests/unit/test_fuzz.py` makes the same checks, without the guidance.

What it learns stays in ``.fuzz/corpus``, so the next run goes on from there. At first that is filled with what a
real llama.cpp says. At a finding it stops with a traceback, and the bytes are in ``.fuzz/found``; they belong into
`FOUND` in ``tests/unit/test_fuzz.py``. The first byte of an input tells how many texts were sent, the
second the status.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random

try:
    import atheris  # type: ignore[import-untyped]
except ImportError:
    sys.exit(
        "atheris is not installed: it has wheels for CPython 3.10 to 3.14 on Linux, x86_64. "
        "Elsewhere, tests/unit/test_fuzz.py makes the same checks."
    )

with atheris.instrument_imports(include=["embedwire"]):
    from tests.unit import fuzzing
from tests.servers import llamacpp

FOLDER = Path(__file__).parents[1] / ".fuzz"
HEAD = 2  # bytes of an input that are no part of the reply


def check(data: bytes) -> None:
    """Fail if this input breaks a promise."""
    if len(data) > HEAD:
        status = fuzzing.STATUSES[data[1] % len(fuzzing.STATUSES)]
        fuzzing.check(data[HEAD:], count=1 + data[0] % 4, status=status)


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """A new input: half of them changed as replies, with their structure, the others as libFuzzer does it."""
    dice = Random(seed)  # noqa: S311 - no secret
    if dice.random() < 0.5:
        changed: bytes = atheris.Mutate(data, most)
        return changed
    head = dice.randbytes(HEAD) if dice.random() < 0.1 else data[:HEAD]
    return (head + fuzzing.mutated(data[HEAD:], dice))[:most]


def seeds() -> Iterator[bytes]:
    """Right answers and refusals, as a real llama.cpp gives them and as other servers are known to."""
    ok = fuzzing.STATUSES.index(200)
    with llamacpp() as url:
        for count in (1, 2, 3):
            for encoding in ("float", "base64"):
                texts = ["Seoul is the capital of Korea."] * count
                said = _ask(f"{url}/v1/embeddings", {"input": texts, "encoding_format": encoding})
                yield bytes([count - 1, ok]) + said
                yield bytes([count - 1, ok]) + _narrow(said)
        wrongs: list[tuple[int, object]] = [(500, {"input": "word " * 600}), (400, {"input": 5}), (400, {})]
        for status, wrong in wrongs:
            yield bytes([0, fuzzing.STATUSES.index(status)]) + _ask(f"{url}/v1/embeddings", wrong)
        for path in ("/v1/models", "/props", "/health", "/nothing"):
            yield bytes([0, ok]) + _ask(url + path)
    yield from (bytes([place % 3, place]) + body for place, body in enumerate(fuzzing.SEEDS))


def _ask(url: str, body: object = None) -> bytes:
    """What the server says, whatever the status."""
    data = None if body is None else json.dumps(body).encode()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(url, data), timeout=60) as answer:  # noqa: S310 - our own server
            said: bytes = answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            said = refusal.read()
    return said


def _narrow(said: bytes) -> bytes:
    """The reply with vectors of three numbers: short inputs are tried more often, and changed to more effect."""
    reply = json.loads(said)
    for item in reply["data"]:
        whole = item["embedding"]
        item["embedding"] = whole[:16] if isinstance(whole, str) else whole[:3]  # 12 bytes are 16 letters
    return json.dumps(reply).encode()


def main() -> None:
    """Fuzz for some seconds; the exit status is 0 if nothing was found."""
    parser = argparse.ArgumentParser(description="Fuzzes everything that reads a server's bytes.")
    parser.add_argument("--seconds", type=int, default=300)
    seconds = parser.parse_args().seconds
    corpus, found = FOLDER / "corpus", FOLDER / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    for seed in seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=20000"]
    options = [*limits, f"-artifact_prefix={found}/", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *options], check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
