"""30,000 rows into a file, by a loop of your own: progress, and after a crash it goes on where it was.

    pip install .   # in a clone of the repository
    llama-server -m model.gguf --embeddings --port 8080
    python examples/resume_by_hand.py [FILE.jsonl]    # stop it with Ctrl-C, kill -9, as you like; then start it again

A stream gives vectors in the order of the rows, so what was written is always the first so many of them: its size says
where to go on, and nothing else needs to be kept. `embedwire embed` does this and more: it notices that the input has
changed, writes Parquet, takes rows that fail aside. EMBEDWIRE_URL names a server elsewhere.
"""

import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from embedwire import SharedEmbeddingClient

OUT = Path(os.environ.get("OUT", "vectors.npy"))


def main() -> None:
    if OUT.exists():
        sys.exit(f"{OUT} is there already.")
    total = sum(1 for _ in rows())
    with SharedEmbeddingClient(os.environ.get("EMBEDWIRE_URL", "http://localhost:8080")) as client:
        server = client.wait_ready(timeout=60)
        assert server.dimensions  # known by now
        name = re.sub(r"\W+", "-", f"{server.model}")
        part = OUT.with_name(f"{OUT.name}.{name}.part")  # another model begins anew
        width = 4 * server.dimensions  # bytes of a row in float32
        with part.open("ab") as file:
            done = file.tell() // width
            file.truncate(done * width)  # a row that was cut off by a kill
            print(f"{done} of {total} rows are there.")
            for start, vectors in client.stream(itertools.islice(rows(), done, None)):
                file.write(vectors.tobytes())
                file.flush()  # a kill of this process loses nothing now; a power cut may, which os.fsync would prevent
                print(f"\r{done + start + len(vectors)} of {total}", end="", flush=True)
    matrix = np.fromfile(part, np.float32).reshape(-1, server.dimensions)
    with part.with_suffix(".whole").open("wb") as file:
        np.save(file, matrix)
    os.replace(part.with_suffix(".whole"), OUT)  # the file appears whole or not at all
    part.unlink()
    print(f"\n{OUT}: {matrix.shape[0]} rows of {matrix.shape[1]} numbers")


def rows() -> Iterator[str]:
    """The texts, the same ones in the same order each time."""
    if len(sys.argv) > 1:
        with Path(sys.argv[1]).open(encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)
    else:
        yield from (f"This is row number {number}." for number in range(30_000))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped; start it again to go on.", file=sys.stderr)
        sys.exit(130)
