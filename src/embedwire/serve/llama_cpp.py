"""What `embedwire serve MODEL.gguf` does: llama.cpp's own server, with settings that suit embedding.

A text must fit whole into one physical batch of llama.cpp's (512 tokens by default), or the server answers 500 "input
is too large to process", for any request that has such a text in it. So the physical batch is larger than any text
here, and each slot has room for the longest: a text of the model's length goes through, and a longer one is a 400 that
says how long it is and how long it may be.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from embedwire._web.listening import ServeError, as_seen_by_clients, listen, to_stderr
from embedwire.serve.gguf import Model, read_model

CHOICES = ("mean", "cls", "last")  # poolings that give a text one vector
LONGEST = 8192  # tokens of a text, unless more are asked for: memory grows with them
SLOTS = 4
BATCH = (
    2**20
)  # tokens: above any text's, so that one that is too long is a 400; costs 5 MB, as memory goes by the context
_STEP = 256  # llama.cpp rounds a slot's context up to a multiple of this

_EXTRA = 'embedwire serve MODEL.gguf needs xllamacpp: install embedwire with its extra "llama-cpp".'


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was asked for; None: what suits the model and the machine.

    Attributes:
        context: The most tokens of a text.
        slots: Texts that are computed together.
        threads: Threads that compute.
        pooling: One of `CHOICES`.
        alias: The model's name for clients; the file's without its ending.
    """

    context: int | None = None
    slots: int | None = None
    threads: int | None = None
    pooling: str | None = None
    alias: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a model is served.

    Attributes:
        context: The most tokens of a text.
        slots: Texts that are computed together.
        threads: Threads that compute.
        pooling: How a text's vector is made of its tokens'.
        alias: The model's name for clients.
        notes: What whoever starts the server should know.
    """

    context: int
    slots: int
    threads: int
    pooling: str
    alias: str
    notes: tuple[str, ...]


def plan(model: Model, path: Path, wishes: Wishes, cores: int) -> Plan:
    """The settings for a model.

    Raises:
        ServeError: It cannot be served so.
    """
    if model.pooling == "rank" and wishes.pooling is None:
        raise ServeError(f"{path} is a reranker: it scores pairs of texts, and gives no vectors.")
    context, cut = _context(model, wishes)
    pooling, guessed = _pooling(model, wishes)
    whole = -(-context // _STEP) * _STEP
    return Plan(
        context=context,
        slots=wishes.slots or max(1, min(SLOTS, LONGEST // whole)),
        threads=wishes.threads or max(1, cores - 1),
        pooling=pooling,
        alias=wishes.alias or path.stem,
        notes=(*cut, *guessed),
    )


def _context(model: Model, wishes: Wishes) -> tuple[int, list[str]]:
    """The most tokens of a text, and a note where the model would take more."""
    if wishes.context is None:
        context = min(model.context, LONGEST)
        more = f"The model reads {model.context} tokens; a text may have {context} here, which saves memory. "
        return context, [more + "--context N takes more."] if context < model.context else []
    if wishes.context > model.context:
        raise ServeError(f"The model reads {model.context} tokens: --context cannot be {wishes.context}.")
    return wishes.context, []


def _pooling(model: Model, wishes: Wishes) -> tuple[str, list[str]]:
    """How tokens make a vector, and a note where that is a guess."""
    if pooling := wishes.pooling or model.pooling:
        return pooling, []
    return "mean", [
        "The file names no pooling, so it is a model for chats rather than for embeddings: its vectors are the "
        "mean of its tokens', and may not be good for search. --pooling last takes the last token's."
    ]


def run(
    path: Path,
    wishes: Wishes,
    host: str = "127.0.0.1",
    port: int = 8090,
    api_key: str | None = None,
    *,
    say: Callable[[str], object] = to_stderr,
) -> NoReturn:
    """Serve a model until SIGINT or SIGTERM, which end the process at once: requests under way are cut off.

    Args:
        path: The GGUF file.
        wishes: What was asked for.
        host: The address to listen on; any other than the loopback lets the network in.
        port: The port; 0 takes any free one.
        api_key: What clients must send.
        say: Takes the lines meant for a person.

    Raises:
        ServeError: xllamacpp is not installed, the file is no model that can be served, or the port cannot be had.
    """
    started = time.perf_counter()
    settings = plan(read_model(path), path, wishes, _cores())
    xllamacpp = _library()
    with listen(host, port) as free:  # llama.cpp would share a port that is taken already
        port = free.getsockname()[1]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _introduce(say, settings, host, port, api_key)
    loading = _Loading(xllamacpp, _parameters(xllamacpp, path, settings, host, port, api_key))
    code = 130
    try:
        loading.wait()
        say(f"Ready in {time.perf_counter() - started:.1f} s.")
        code = 0
        threading.Event().wait()
    except KeyboardInterrupt:
        say("Stopped.")
    sys.stdout.flush()
    os._exit(code)  # llama.cpp's threads would hold the process until what they compute is done


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _library() -> Any:
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else an abort starts a debugger
    try:
        import xllamacpp
    except ModuleNotFoundError as error:
        if error.name != "xllamacpp":
            raise
        raise ServeError(_EXTRA) from None
    return xllamacpp


def _parameters(xllamacpp: Any, path: Path, settings: Plan, host: str, port: int, api_key: str | None) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {settings.alias}
    params.hostnames = [host]
    params.port = port
    params.api_keys = [] if api_key is None else [api_key]
    params.embedding = True
    params.pooling_type = getattr(
        xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{settings.pooling.upper()}"
    )
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * (-(-settings.context // _STEP) * _STEP)
    params.n_batch = params.n_ubatch = BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    params.endpoint_metrics = True
    params.ui = False
    params.cors_origins = ""  # no page in a browser may ask it, which by default each one may
    params.verbosity = 1  # errors
    return params


class _Loading:
    """The server, loaded in a thread, so that Ctrl-C ends it. Its state is the server, or why there is none."""

    def __init__(self, xllamacpp: Any, params: Any) -> None:
        self._server: Any = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._load, args=(xllamacpp, params), daemon=True)
        self._thread.start()

    def _load(self, xllamacpp: Any, params: Any) -> None:
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:  # what C++ throws comes as any of Python's
            self._failure = error

    def wait(self) -> None:
        """Return once the model is loaded.

        Raises:
            ServeError: It could not be.
        """
        while self._thread.is_alive():
            self._thread.join(0.1)  # on Windows a wait without an end hears no Ctrl-C
        if self._failure is not None:
            raise ServeError(
                "llama.cpp could not load the model; what it said stands above."
            ) from self._failure


def _introduce(
    say: Callable[[str], object], settings: Plan, host: str, port: int, api_key: str | None
) -> None:
    name, private = as_seen_by_clients(host)
    if api_key is None and not private:
        say(f"Warning: {host} lets the network in and no API key is asked for. Set EMBEDWIRE_API_KEY.")
    for note in settings.notes:
        say(f"Note: {note}")
    url, key = f"http://{name}:{port}", "" if api_key is None else ', api_key="..."'
    say(
        f"embedwire serves {settings.alias} (texts of up to {settings.context} tokens, {settings.pooling} pooling, "
        f"slots: {settings.slots}, threads: {settings.threads}) at {url}"
    )
    say(f'Use it with EmbedwireEmbeddings(base_url="{url}"{key}); stop it with Ctrl+C. Loading the model ...')
