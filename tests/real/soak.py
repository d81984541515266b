"""Load on real llama.cpp servers that are killed, frozen and started again under it: ``make soak``.

    python -m tests.real.soak --seconds 600
    python -m tests.real.soak --seconds 600 --several

One server has one slot, so its vectors are known to six digits; the other has four, so that the nearest known
vector must be the text's. Threads, event loops and both frameworks ask them without a pause, and a crowd that comes as
several visitors (keys, headers, models), wants the same few texts, and often gives up.

With ``--several`` they are three servers of one client, killed or frozen one after another, so that two are always
there: then no error may reach anybody but who set a deadline too short for it.

Judged is

- every vector, also those that a failed call completed; every error; every warning, and what asyncio complains of;
- what always holds of the queues on every loop (`tests/server/invariants.py`), and that nothing is left in them;
- that each caller is served again when the servers are left in peace;
- growth: what the process holds in the last third of the run against the first third, by the medians, so that a
  moment does not count; and what is left when all clients are closed against what was there before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from embedwire import (
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingClient,
    RequestError,
    RequestTimeout,
    ServerUnavailable,
    SharedEmbeddingClient,
    Timeouts,
)
from embedwire._clients.loop_thread import loop_thread
from embedwire._clients.origin import origins_of
from embedwire._queue.dispatcher import Dispatcher
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from tests.server.invariants import check_queue, nothing_left
from tests.servers import CAN_FREEZE, Server, reference, start_llamacpp

TEXTS = [
    f"The {first} {verb} the {second}."
    for first, second in itertools.pairwise(
        ["river", "doctor", "winter", "bridge", "violin", "senator", "tiger"]
    )
    for verb in ["hides", "paints", "forgets", "repairs", "buries", "greets"]
]
TIMEOUT = Timeouts(total=6, connect=2, sock_read=3)  # short, so that a long outage is an error
# Seconds that a killed server stays away, and that a frozen one is: the last is too long to be waited for.
OUTAGES, FREEZES = (0.0, 0.0, 0.5, 5.0), (0.1, 0.5, 2.0, 8.0)
# The last where a server is frozen for longer than a request may take while it loads.
PASSING = (ConnectionFailed, RequestTimeout, DeadlineExceeded, ServerUnavailable)

VISITORS: list[dict[str, Any]] = [
    {"api_key": "key 1", "model": "one"},
    {"api_key": "key 1", "model": "two"},
    {"api_key": "key 2", "model": "one", "headers": {"X-Tenant": "a"}},
    {"api_key": "key 2", "model": "one", "headers": {"X-Tenant": "b"}},
    {"dimensions": 384, "concurrency": 2},
]
HASTY: dict[str, Any] = {
    "api_key": "key 1",
    "model": "one",
    "deadline": 0.2,
}  # shares texts with the first one
EMPTY = 30  # seconds within which a queue must be empty when nobody asks any more: what was given up lingers

Rows = Any  # lists of floats, or an array


@dataclass
class Judge:
    """What was right and what was not, at one server; used by all its callers at once.

    Attributes:
        url: The server, or the servers.
        right: The vector of each of `TEXTS`.
        exact: Whether vectors are the same every time.
        served: Successful calls of each caller.
        errors: Errors of each kind.
        wrong: What must not have happened, shared between the servers.
    """

    url: str | list[str]
    right: npt.NDArray[np.float32]
    exact: bool
    wrong: list[str]
    served: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def sync(self, caller: str, texts: list[str], call: Callable[[], Rows]) -> bool:
        """Make a call and judge it; True if it gave vectors."""
        with self._judged(caller, texts) as rows:
            rows.append(call())
        return bool(rows)

    async def asynchronous(self, caller: str, texts: list[str], call: Awaitable[Rows]) -> bool:
        """As `sync`."""
        with self._judged(caller, texts) as rows:
            rows.append(await call)
        return bool(rows)

    @contextlib.contextmanager
    def _judged(self, caller: str, texts: list[str]) -> Iterator[list[Rows]]:
        rows: list[Rows] = []
        try:
            yield rows
            self._check(rows[0], texts)
            self.served[caller] += 1
        except PASSING as error:
            self.errors[type(error).__name__] += 1
            self._check_error(error, texts)
        except Exception:
            self.wrong.append(f"{caller}: {traceback.format_exc()}")

    def _check(self, rows: Rows, texts: list[str]) -> None:
        got = np.asarray(rows, dtype=np.float32)
        places = [TEXTS.index(text) for text in texts]
        assert got.shape == (len(texts), self.right.shape[1]), "not one vector for each text"
        if self.exact:
            assert np.abs(got - self.right[places]).max() <= 1e-6, "a vector that is not the text's"
        else:
            far = np.linalg.norm(got - self.right[places], axis=1).max()
            assert (got @ self.right.T).argmax(axis=1).tolist() == places, "a vector nearer to another text's"
            assert far < 0.02, "a vector far from the text's"

    def _check_error(self, error: RequestError, texts: list[str]) -> None:
        try:
            urls = [self.url] if isinstance(self.url, str) else self.url
            assert set(error.server.split(", ")) <= {f"{url}/v1" for url in urls}
            assert error.server in str(error)
            assert error.completed is not None
            if error.completed.indexes:
                self._check(error.completed.vectors, [texts[index] for index in error.completed.indexes])
        except AssertionError:
            self.wrong.append(f"{error!r}: {traceback.format_exc()}")


class Victim:
    """A llama.cpp that is killed, frozen and started again, always on the same port."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.port = _quiet_port()
        self.kills = 0
        self.freezes = 0
        self.server = self._start()

    def _start(self) -> Server:
        return start_llamacpp(port=self.port, slots=self.slots)

    def torment(self, dice: random.Random, peace: threading.Event) -> None:
        """Do it until there is peace; then the server is there."""
        while not peace.wait(dice.uniform(2, 5)):
            self.torment_once(dice, peace)
        self.server.wait_ready()

    def torment_once(self, dice: random.Random, peace: threading.Event) -> None:
        """Kill it or freeze it, and bring it back."""
        if CAN_FREEZE and self.kills and dice.random() < 0.4:
            self.freezes += 1
            with self.server.frozen():
                peace.wait(dice.choice(FREEZES))
        else:
            self.kills += 1
            self.server.kill()
            peace.wait(dice.choice(OUTAGES))
            self.server = self._start()


def torment_in_turn(victims: list[Victim], dice: random.Random, peace: threading.Event) -> None:
    """One after another, so that only one is gone at a time, until there is peace."""
    for victim in itertools.cycle(victims):
        if peace.wait(dice.uniform(1, 3)):
            break
        victim.torment_once(dice, peace)
        victim.server.wait_ready()


def _quiet_port() -> int:
    """A free port that no outgoing connection gets.

    A client that asks again and again for a port where nobody listens may be given just that port as its own: it
    would be connected to itself, and the server could not come back.
    """
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port from 20000 to 29999")


# Callers: each asks until the end, and then once more, when it must be served.


def _some(dice: random.Random) -> list[str]:
    return dice.sample(TEXTS, dice.randint(1, 12))


def shared(judge: Judge, dice: random.Random, end: threading.Event) -> None:
    """A thread with a shared client."""
    with SharedEmbeddingClient(judge.url, timeout=TIMEOUT, deadline=10) as client:

        def ask() -> bool:
            texts = _some(dice)
            if dice.random() < 0.3:
                return judge.sync("shared, query", texts[:1], lambda: [client.embed_query(texts[0])])
            return judge.sync("shared", texts, lambda: client.embed(texts))

        _until(end, ask, judge)


def langchain(judge: Judge, dice: random.Random, end: threading.Event) -> None:
    """A thread that makes a LangChain object for each call, and merely drops it."""

    def ask() -> bool:
        texts = _some(dice)
        embeddings = EmbedwireEmbeddings(base_url=judge.url, timeout=TIMEOUT)
        return judge.sync("LangChain", texts, lambda: embeddings.embed_documents(texts))

    _until(end, ask, judge)


def llama_index(judge: Judge, dice: random.Random, end: threading.Event) -> None:
    """A thread with a LlamaIndex object, and an event loop for each async call."""
    with contextlib.closing(EmbedwireEmbedding(base_url=judge.url, timeout=TIMEOUT)) as embed_model:

        def ask() -> bool:
            texts = _some(dice)
            if dice.random() < 0.5:
                return judge.sync("LlamaIndex", texts, lambda: embed_model.get_text_embedding_batch(texts))
            work = functools.partial(embed_model.aget_text_embedding_batch, texts)
            return judge.sync("LlamaIndex, async", texts, lambda: asyncio.run(work()))

        _until(end, ask, judge)


def _until(end: threading.Event, ask: Callable[[], bool], judge: Judge) -> None:
    while not end.is_set():
        if not ask():
            end.wait(0.2)  # who was refused does not ask again at once
    if not ask():
        judge.wrong.append("a caller was not served although the servers were left in peace")


def own_loop(judge: Judge, dice: random.Random, end: threading.Event, loops: Loops) -> None:
    """A thread with an event loop and several tasks in it, which share a client for a while, then the next."""

    async def caller(client: EmbeddingClient, calls: int) -> None:
        while calls and not end.is_set():
            calls -= 1
            texts = _some(dice)
            if dice.random() < 0.1:
                await _give_up(client.embed(texts), dice.uniform(0, 0.05))
            elif not await judge.asynchronous("asyncio", texts, client.embed(texts)):
                await asyncio.sleep(0.2)

    async def callers() -> None:
        with loops.watched(asyncio.get_running_loop()):
            while not end.is_set():
                async with EmbeddingClient(judge.url, timeout=TIMEOUT) as client:
                    await asyncio.gather(*(caller(client, 50) for _ in range(3)))
            async with EmbeddingClient(judge.url, timeout=TIMEOUT) as client:
                if not await judge.asynchronous("asyncio", TEXTS[:7], client.embed(TEXTS[:7])):
                    judge.wrong.append("a caller was not served although the servers were left in peace")
                await see_empty(judge.wrong)

    asyncio.run(callers())


def crowd(judge: Judge, dice: random.Random, end: threading.Event, loops: Loops) -> None:
    """A thread whose tasks come as several visitors, all for the same few texts, and often give up."""
    few = TEXTS[:6]

    async def caller(clients: list[SharedEmbeddingClient]) -> None:
        while not end.is_set():
            texts = dice.sample(few, dice.randint(1, 4))
            call = dice.choice(clients).aembed(texts, dice.choice(["query", "document"]))
            if dice.random() < 0.3:
                await _give_up(call, dice.uniform(0, 0.1))
                judge.served["given up"] += 1
            elif not await judge.asynchronous("crowd", texts, call):
                await asyncio.sleep(0.2)

    async def callers() -> None:
        with loops.watched(asyncio.get_running_loop()), contextlib.ExitStack() as stack:
            *clients, hasty = [
                stack.enter_context(SharedEmbeddingClient(judge.url, timeout=TIMEOUT, **visitor))
                for visitor in (*VISITORS, HASTY)
            ]
            await asyncio.gather(*(caller([*clients, hasty]) for _ in range(8)))
            for client in clients:
                if not await judge.asynchronous("crowd", few, client.aembed(few)):
                    judge.wrong.append("a visitor was not served although the servers were left in peace")

    asyncio.run(callers())


async def _give_up(call: Coroutine[Any, Any, Rows], seconds: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError, *PASSING):
        await asyncio.wait_for(call, seconds)


# What the process holds


def _faults(check: Callable[[Dispatcher], None]) -> list[str]:
    """What a check finds in the queues on the running loop."""
    try:
        for dispatcher in origins_of(asyncio.get_running_loop()).dispatchers:
            check(dispatcher)
    except AssertionError:
        return [traceback.format_exc()]
    return []


async def see_queues(wrong: list[str]) -> None:
    """Notes where the queues on this loop are not as they always must be."""
    wrong += _faults(check_queue)


async def see_empty(wrong: list[str], patience: float = EMPTY) -> None:
    """Notes what is left in the queues on this loop a while after the last caller."""
    end = time.monotonic() + patience
    while (left := _faults(nothing_left)) and time.monotonic() < end:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.1)
    wrong += left


class Loops:
    """The event loops that run now, their queues, and how many tasks are on them."""

    def __init__(self) -> None:
        self._running = {loop_thread().loop}

    @contextlib.contextmanager
    def watched(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Count this loop while the block runs."""
        self._running.add(loop)
        try:
            yield
        finally:
            self._running.discard(loop)

    def look(self, see: Callable[[list[str]], Coroutine[Any, Any, None]], wrong: list[str]) -> None:
        """Have a look at the queues on each loop."""
        for loop in list(self._running):
            asyncio.run_coroutine_threadsafe(see(wrong), loop).result(2 * EMPTY)

    def tasks(self) -> int:
        """How many tasks there are."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1  # without this one

        return sum(asyncio.run_coroutine_threadsafe(count(), loop).result(10) for loop in list(self._running))


def open_files() -> int | None:
    """Descriptors, sockets among them; None where the platform does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(folder))
    return None


def memory() -> int | None:
    """MiB that the process has in memory now; None where the platform does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return int(subprocess.check_output(["/bin/ps", "-o", "rss=", "-p", str(os.getpid())])) // 1024
    return None


# The most that the median of the last third may be above that of the first. Files and tasks: in one third a server
# may have been away for longer than in another, with all its connections and requests, about 20; one more for each
# restart would be more after ten minutes, and one in all is found when everything is closed. Memory: what an allocator
# takes now and then; the lists of vectors of ten minutes alone, were they kept, would be hundreds of MiB.
ALLOWED = {"files": 24, "tasks": 24, "threads": 2, "MiB": 16}
Sample = dict[str, "int | None"]


def sample(loops: Loops) -> Sample:
    """What the process holds now."""
    return {
        "files": open_files(),
        "tasks": loops.tasks(),
        "threads": threading.active_count(),
        "MiB": memory(),
    }


def growth(samples: list[Sample]) -> tuple[list[str], list[str]]:
    """A table of the first third against the last, after a fifth to warm up; and what has grown too much."""
    samples = samples[len(samples) // 5 :]
    third = len(samples) // 3
    table, grown = [], []
    for name, allowed in ALLOWED.items():
        told = [value for each in samples if (value := each[name]) is not None]
        if len(told) < len(samples):
            table.append(f"{name:>9}  not told by this platform")
            continue
        before, after = statistics.median(told[:third]), statistics.median(told[-third:])
        table.append(f"{name:>9}  first third {before:g}, last third {after:g}, allowed {allowed:+}")
        if after - before > allowed:
            grown.append(f"{name} grew from {before:g} to {after:g}")
    return table, grown


# The run


def soak(seconds: float, seed: int, *, several: bool = False) -> list[str]:
    """Run it, with a line every 10 s and a table at the end; returns what was wrong, at best nothing.

    Args:
        seconds: How long.
        seed: Of what happens.
        several: Three servers of one client.
    """
    wrong: list[str] = []
    _complain_to(wrong)
    dice = random.Random(seed)
    victims = [Victim(slots=slots) for slots in ((1, 4, 4) if several else (1, 4))]
    try:
        for victim in victims:
            victim.server.wait_ready()
        right = reference(victims[0].server.url, TEXTS, one_by_one=True)
        alike = right @ right.T - np.eye(len(TEXTS))  # of unit length, so this is the cosine
        assert alike.max() < 0.98, "texts too much alike for a swapped vector to show"
        if several:
            judges = [Judge([each.server.url for each in victims], right, exact=False, wrong=wrong)]
        else:
            judges = [Judge(each.server.url, right, each.slots == 1, wrong) for each in victims]
        loops = Loops()
        _use_all(judges[0], loops)
        before = sample(loops)
        samples = _load(seconds, dice, victims, judges, loops)
        after = _left(before, loops)
    finally:
        for victim in victims:
            victim.server.stop()
    table, grown = growth(samples)
    for victim in victims:
        print(f"{victim.slots} slots: killed {victim.kills} times, frozen {victim.freezes} times")
    for judge in judges:
        print(f"  served {dict(judge.served)}\n  errors {dict(judge.errors)}")
        if several and judge.errors.keys() - {DeadlineExceeded.__name__}:
            wrong.append("errors although other servers were there")
    if not all(victim.kills for victim in victims) or any(
        judge.served[caller] < 2 for judge in judges for caller in CALLERS
    ):
        wrong.append("too little happened for the run to say anything")
    print(*table, f"   before  {before}", f"    after  {after}", sep="\n")
    wrong += grown
    wrong += [
        f"{name}: {after[name]} are left after the end, {was} were there before"
        for name, was in before.items()
        if name != "MiB" and was is not None and (after[name] or 0) > was
    ]
    return wrong


CALLERS = (
    "shared",
    "shared, query",
    "LangChain",
    "LlamaIndex",
    "LlamaIndex, async",
    "asyncio",
    "crowd",
    "given up",
)


def _use_all(judge: Judge, loops: Loops) -> None:
    """Each kind of caller once, so that what is made at first use is there before anything is measured."""
    end = threading.Event()
    end.set()
    for caller in _callers(loops):
        caller(judge, random.Random(0), end)


def _callers(loops: Loops) -> list[Callable[[Judge, random.Random, threading.Event], None]]:
    of_loops = [functools.partial(work, loops=loops) for work in (own_loop, crowd)]
    return [shared, langchain, llama_index, *of_loops]


def _load(
    seconds: float, dice: random.Random, victims: list[Victim], judges: list[Judge], loops: Loops
) -> list[Sample]:
    """The load and the torment, until the time is over and every caller has been served once more."""
    peace, end = threading.Event(), threading.Event()

    def thread(work: Callable[..., None], *arguments: object) -> threading.Thread:
        return threading.Thread(target=work, args=arguments)

    def fork() -> random.Random:
        return random.Random(dice.random())

    if len(judges) < len(victims):
        tormentors = [thread(torment_in_turn, victims, fork(), peace)]
    else:
        tormentors = [thread(victim.torment, fork(), peace) for victim in victims]
    kinds = [shared, *_callers(loops)]
    callers = [thread(kind, judge, fork(), end) for judge in judges for kind in kinds]
    samples: list[Sample] = []
    anchors = (
        contextlib.ExitStack()
    )  # the queues on the shared loop are there for as long as these clients are
    for judge in judges:
        anchors.enter_context(SharedEmbeddingClient(judge.url)).embed(TEXTS[:1])
    for each in (*callers, *tormentors):
        each.start()
    begun, told = time.monotonic(), 0
    try:
        while (passed := time.monotonic() - begun) < seconds:
            samples.append(sample(loops))
            loops.look(see_queues, judges[0].wrong)
            if passed >= told + 10:
                told += 10
                _tell(passed, samples[-1], victims, judges)
            peace.wait(0.5)
    finally:
        peace.set()
        for each in tormentors:
            each.join()
        end.set()
        for each in callers:
            each.join()
    with anchors:
        loops.look(see_empty, judges[0].wrong)
    return samples


def _left(before: Sample, loops: Loops) -> Sample:
    """What is left when everything is closed; clients that were dropped may let go a moment later."""
    patience = time.monotonic() + 10
    while True:
        gc.collect()
        after = sample(loops)
        if after["tasks"] == 0 and (after["files"] or 0) <= (before["files"] or 0):
            return after
        if time.monotonic() > patience:
            return after


def _tell(passed: float, now: Sample, victims: list[Victim], judges: list[Judge]) -> None:
    kills, freezes = (sum(getattr(each, name) for each in victims) for name in ("kills", "freezes"))
    served, errors = (sum(getattr(each, name).total() for each in judges) for name in ("served", "errors"))
    held = ", ".join(f"{value} {name}" for name, value in now.items())
    happened = f"{served} calls served, {errors} errors, {kills} kills, {freezes} freezes"
    print(f"{passed:5.0f} s: {happened}; {held}", flush=True)


def _complain_to(wrong: list[str]) -> None:
    """What nobody else would notice is wrong too: what is not closed, and tasks or threads that die."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            wrong.append(record.getMessage())

    warnings.simplefilter("error", ResourceWarning)
    logging.getLogger("asyncio").addHandler(Notes(logging.WARNING))
    logging.getLogger("embedwire").setLevel(logging.ERROR)  # that it repeats is what is meant to happen
    sys.unraisablehook = lambda which: wrong.append(f"nobody could be told: {which.exc_value!r}")
    threading.excepthook = lambda which: wrong.append(
        "".join(traceback.format_exception(which.exc_type, which.exc_value, which.exc_traceback))
    )


def main() -> None:
    """Run it from the command line; the exit status is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Load on llama.cpp servers that are killed under it.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--several", action="store_true", help="three servers of one client")
    arguments = parser.parse_args()
    wrong = soak(arguments.seconds, arguments.seed, several=arguments.several)
    print(*(f"WRONG: {each}" for each in wrong[:20]), sep="\n")
    print(f"{len(wrong)} things were wrong" if wrong else "nothing was wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
