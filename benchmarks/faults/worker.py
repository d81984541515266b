"""The process of one cell: a client is made and used as the row says, and what happened goes to the parent."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeAlias

from benchmarks.faults.clients import DOORS, Door, Options

Way: TypeAlias = Literal["calls", "loops", "fork", "pickle", "repr", "dump"]
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
        calls: The texts of each call.
        pause: Seconds between two calls.
        key_in_environment: A key for the client to find in the environment.
        debug: Whether logs of level DEBUG are taken, too; else those of WARNING and above.
    """

    door: str
    options: Options
    way: Way
    calls: list[list[str]]
    pause: float
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


def work(job: Job, link: Connection) -> None:
    """Does the job: sends None when it begins, and at the end what it observed."""
    for name in list(os.environ):
        if name.upper().startswith(FOREIGN):
            del os.environ[name]
    door_class = DOORS[job.door]
    if job.key_in_environment and door_class.key_variable:
        os.environ[door_class.key_variable] = job.key_in_environment
    door = door_class(job.options)
    observed = Observed()
    link.send(None)
    before = _peak()
    with _log(job.debug) as observed.log:
        WAYS[job.way](door, job, observed)
    observed.grown = _peak() - before
    link.send(observed)


def _calls(door: Door, job: Job, observed: Observed) -> None:
    for number, texts in enumerate(job.calls):
        time.sleep(job.pause if number else 0)
        observed.calls.append(_call(lambda texts: door.embed(door.client, texts), texts))


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


def _dump(door: Door, job: Job, observed: Observed) -> None:
    observed.shown = list(door.dumps()) or None


def _repr(door: Door, job: Job, observed: Observed) -> None:
    observed.shown = [repr(door.client), str(door.client), f"{door.client}"]


WAYS: dict[Way, Callable[[Door, Job, Observed], None]] = {
    "calls": _calls,
    "loops": _loops,
    "fork": _fork,
    "pickle": _pickle,
    "dump": _dump,
    "repr": _repr,
}


def _call(embed: Embed, texts: list[str]) -> Call:
    start = time.perf_counter()
    try:
        vectors = [row if row is None else list(row) for row in embed(texts)]
    except BaseException as error:  # a Rust panic is no Exception
        everything = repr(error) + "".join(
            traceback.format_exception(type(error), error, error.__traceback__)
        )
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
    return Call(texts=texts, seconds=time.perf_counter() - start, vectors=vectors)


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
