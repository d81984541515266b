"""The process of one cell: a client is made and used as the row says, and what happened goes to the parent."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeAlias

from benchmarks.faults.clients import DOORS, Door, Options

Way: TypeAlias = Literal[
    "calls", "loops", "together", "fork", "pickle", "repr", "dump", "misplaced", "twice", "log", "atexit"
]
Embed: TypeAlias = Callable[[list[str]], Any]

CHILD_CAP = 20  # seconds that a forked child gets
FOREIGN = (
    "EMBEDWIRE_",
    "OPENAI_",
    "BASETEN_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)  # not ours to measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a cell's process is to do.

    Attributes:
        door: Name of the client's door.
        options: What the client is made with.
        way: `"calls"`: one call after the other. `"loops"`: the same from async code, each in an `asyncio.run` of
            its own. `"fork"`: one call, then a fork, then the others by turns in parent and child. `"pickle"`:
            one call, then the others with a copy out of a pickle. `"repr"`, `"dump"`: no call, only what shows.
            `"together"`: all at once on one event loop; a call of one text is a query. `"misplaced"`: the key is
            passed as `timeout`. `"twice"`: the server stands twice in the list of servers. `"log"`: in the second
            call a log handler raises SystemExit, once. `"atexit"`: the second call is made by an `atexit` handler.
        calls: The texts of each call.
        each: How the options of each call's own object differ; empty: all calls use one object.
        workers: The most calls that go on at once.
        pause: Seconds between two calls, or their beginnings.
        netrc: What stands in `~/.netrc`.
        key_in_environment: A key for the client to find in the environment.
        debug: Whether logs of level DEBUG are taken, too; else those of WARNING and above.
    """

    door: str
    options: Options
    way: Way
    calls: list[list[str]]
    each: list[dict[str, Any]]
    workers: int
    pause: float
    netrc: str | None
    key_in_environment: str | None
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An exception, as a user meets it."""

    name: str
    message: str
    everything: str  # its repr, and the traceback with all causes
    index: object  # its attribute of that name


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: what came back, or the exception."""

    texts: list[str]
    seconds: float
    vectors: list[list[float] | None] | None = None
    failure: Failure | None = None


@dataclass(slots=True, kw_only=True)
class Observed:
    """What happened in the process."""

    calls: list[Call] = field(default_factory=list)
    shown: list[str] | None = None  # repr and dumps; None: there are no such
    log: list[str] = field(default_factory=list)
    grown: float = 0.0  # MB that the memory's peak rose during the calls
    seconds: float | None = None  # of all calls, where they went on at once


class AnyCase(str):
    """A text that is equal to another one in other case."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


class Loner(str):
    """A text that is equal to none, not even to itself."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


def work(job: Job, link: Connection) -> None:
    """Does the job: sends None when it begins, and at the end what it observed."""
    for name in list(os.environ):
        if name.upper().startswith(FOREIGN):
            del os.environ[name]
    door_class = DOORS[job.door]
    if job.key_in_environment and door_class.key_variable:
        os.environ[door_class.key_variable] = job.key_in_environment
    observed = Observed()
    with _home(job.netrc):
        door = door_class(job.options)
        link.send(None)
        before = _peak()
        with _log(job.debug) as observed.log:
            WAYS[job.way](door, job, observed)
        observed.grown = _peak() - before
    link.send(observed)


def _calls(door: Door, job: Job, observed: Observed) -> None:
    for number, (mine, texts) in enumerate(zip(_doors(door, job), job.calls, strict=True)):
        time.sleep(job.pause if number else 0)
        observed.calls.append(embedded(mine, texts))


def _doors(door: Door, job: Job) -> list[Door]:
    """The door of each call."""
    if not job.each:
        return [door] * len(job.calls)
    return [type(door)(replace(job.options, **changes)) for changes in job.each]


def embedded(door: Door, texts: list[str]) -> Call:
    """One call by the door for sync code."""
    return _call(lambda texts: door.embed(door.client, texts), texts)


def _together(door: Door, job: Job, observed: Observed) -> None:
    doors = _doors(door, job)

    async def main() -> list[Call]:
        clients = [each.for_loops() for each in doors] if job.each else [door.for_loops()] * len(doors)
        room = asyncio.Semaphore(job.workers)

        async def one(mine: Door, client: Any, texts: list[str]) -> Call:
            async with room:
                begin = time.perf_counter()
                try:
                    got = await (
                        mine.aembed(client, texts) if len(texts) > 1 else _query(mine, client, texts)
                    )
                    vectors = [row if row is None else list(row) for row in got]
                except BaseException as error:
                    return _failed(texts, begin, error)
                return Call(texts=texts, seconds=time.perf_counter() - begin, vectors=vectors)

        tasks = []
        for mine, client, texts in zip(doors, clients, job.calls, strict=True):
            tasks.append(asyncio.ensure_future(one(mine, client, texts)))
            await asyncio.sleep(job.pause)
        return list(await asyncio.gather(*tasks))

    begin = time.perf_counter()
    observed.calls = asyncio.run(main())
    observed.seconds = time.perf_counter() - begin


async def _query(door: Door, client: Any, texts: list[str]) -> list[Any]:
    return [await door.aquery(client, texts[0])]


def _loops(door: Door, job: Job, observed: Observed) -> None:
    client = door.for_loops()
    for texts in job.calls:
        observed.calls.append(_call(lambda texts: asyncio.run(door.aembed(client, texts)), texts))


def _fork(door: Door, job: Job, observed: Observed) -> None:
    first, *others = job.calls
    observed.calls.append(_call(lambda texts: door.embed(door.client, texts), first))
    here, there = multiprocessing.Pipe()
    child = os.fork()
    if not child:
        signal.alarm(CHILD_CAP)  # ends it, should it hang
        there.send(None)  # so that both begin in the same moment
        there.send([_call(lambda texts: door.embed_in_child(door.client, texts), t) for t in others[::2]])
        os._exit(0)
    there.close()
    here.recv()
    observed.calls += [_call(lambda texts: door.embed(door.client, texts), t) for t in others[1::2]]
    try:
        observed.calls += here.recv()
    except EOFError:
        gone = Failure(name="child hung or died", message="", everything="", index=None)
        observed.calls.append(Call(texts=others[0], seconds=CHILD_CAP, failure=gone))


def _pickle(door: Door, job: Job, observed: Observed) -> None:
    first, *others = job.calls
    observed.calls.append(_call(lambda texts: door.embed(door.client, texts), first))
    shown = observed.shown = []

    def embed_with_copy(texts: list[str]) -> Any:
        pickled = pickle.dumps(door.client)
        shown.append(repr(pickled))
        return door.embed(pickle.loads(pickled), texts)

    observed.calls += [_call(embed_with_copy, texts) for texts in others]


def _misplaced(door: Door, job: Job, observed: Observed) -> None:
    _made_anew(door, replace(job.options, timeout=job.options.key), job, observed)


def _twice(door: Door, job: Job, observed: Observed) -> None:
    _made_anew(door, replace(job.options, others=(job.options.url,)), job, observed)


def _made_anew(door: Door, options: Options, job: Job, observed: Observed) -> None:
    """With a client that is made for each call, which may fail where it is made."""

    def embed(texts: list[str]) -> Any:
        made = type(door)(options)
        return made.embed(made.client, texts)

    observed.calls += [_call(embed, texts) for texts in job.calls]


def _exit_in_log(door: Door, job: Job, observed: Observed) -> None:
    first, second, *others = job.calls
    observed.calls.append(embedded(door, first))
    root, exiting = logging.getLogger(), _Exiting()
    root.addHandler(exiting)
    observed.calls.append(embedded(door, second))
    root.removeHandler(exiting)
    observed.calls += [embedded(door, texts) for texts in others]


class _Exiting(logging.Handler):
    """Ends the program at the first message."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().removeHandler(self)
        raise SystemExit(1)


def _atexit(door: Door, job: Job, observed: Observed) -> None:
    """In another process: this one's handlers are not run."""
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults.ending"],
        input=pickle.dumps(job),
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    if ran.stdout:
        observed.calls = pickle.loads(ran.stdout)
    else:
        gone = Failure(name="handler did not end", message="", everything="", index=None)
        observed.calls = [Call(texts=job.calls[-1], seconds=0.0, failure=gone)]


def _dump(door: Door, job: Job, observed: Observed) -> None:
    observed.shown = list(door.dumps()) or None


def _repr(door: Door, job: Job, observed: Observed) -> None:
    observed.shown = [repr(door.client), str(door.client), f"{door.client}"]


WAYS: dict[Way, Callable[[Door, Job, Observed], None]] = {
    "calls": _calls,
    "loops": _loops,
    "together": _together,
    "fork": _fork,
    "pickle": _pickle,
    "dump": _dump,
    "repr": _repr,
    "misplaced": _misplaced,
    "twice": _twice,
    "log": _exit_in_log,
    "atexit": _atexit,
}


def _call(embed: Embed, texts: list[str]) -> Call:
    start = time.perf_counter()
    try:
        vectors = [row if row is None else list(row) for row in embed(texts)]
    except BaseException as error:  # a Rust panic is no Exception
        return _failed(texts, start, error)
    return Call(texts=texts, seconds=time.perf_counter() - start, vectors=vectors)


def _failed(texts: list[str], start: float, error: BaseException) -> Call:
    everything = repr(error) + "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return Call(
        texts=texts,
        seconds=time.perf_counter() - start,
        failure=Failure(
            name=type(error).__name__,
            message=str(error),
            everything=everything,
            index=getattr(error, "index", None),
        ),
    )


@contextmanager
def _home(netrc: str | None) -> Iterator[None]:
    """With such a file in the home directory."""
    if netrc is None:
        yield
        return
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / ".netrc").write_text(netrc, "utf-8")
        (Path(home) / ".netrc").chmod(0o600)
        os.environ["HOME"] = home
        yield


@contextmanager
def _log(debug: bool) -> Iterator[list[str]]:
    """The messages that are logged, and warnings."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(self.format(record))

    root, listener = logging.getLogger(), Listener()
    logging.captureWarnings(True)
    root.addHandler(listener)
    root.setLevel(logging.DEBUG if debug else logging.WARNING)
    yield messages
    root.removeHandler(listener)


def _peak() -> float:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
