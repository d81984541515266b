"""One row of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.faults.rules import Rule, at_most, right_vector, within
from benchmarks.faults.servers import FOUR, Serve
from benchmarks.faults.worker import Way
from embedwire.testing import EmbeddingServer

BOUNDED = (at_most(10), within(30))
ONE_REPEAT = (at_most(2), within(5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault.

    Attributes:
        name: What the server does.
        rules: What must hold.
        note: What else a reader should know.
        serve: Makes the server.
        beside: Make further servers, where the client is given a list.
        urls: Further URLs in that list.
        calls: The texts of each call.
        way: How the client is used; see `worker.Job`.
        pause: Seconds between two calls.
        timeout, retries, batch, concurrency, dimensions: What the client is made with; None: its default.
        prefix: What stands before `/embeddings` in the server's paths; None: `/v1`, as each client has it.
        query: Of the URL, without "?".
        each: How the options of each call's own object differ; empty: all calls use one object.
        workers: The most calls that go on at once, where they do.
        gone: Whether nothing listens when the client comes.
        key_from_environment: Whether the client finds the key there.
        netrc: Whether there is a ~/.netrc with a password for the server, and the client may look into its environment.
        debug: Whether to take DEBUG logs.
        expected: The vector that a text should get.
        off: How far off each of its numbers may be.
    """

    name: str
    rules: tuple[Rule, ...]
    note: str = ""
    serve: Serve = lambda elsewhere: EmbeddingServer()
    beside: tuple[Serve, ...] = ()
    urls: tuple[str, ...] = ()
    calls: tuple[list[str], ...] = (FOUR,)
    way: Way = "calls"
    pause: float = 0.0
    timeout: float | None = None
    retries: int | None = None
    batch: int | None = None
    concurrency: int | None = None
    dimensions: int | None = None
    prefix: str | None = None
    query: str = ""
    each: tuple[dict[str, Any], ...] = ()
    workers: int = 1000
    gone: bool = False
    key_from_environment: bool = False
    netrc: bool = False
    debug: bool = False
    expected: Callable[[str], list[float]] = right_vector
    off: float = 0.0

    @property
    def several(self) -> bool:
        """Whether the client is given a list of servers."""
        return bool(self.beside or self.urls or self.way == "twice")
