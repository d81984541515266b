"""What was learned about each server; kept for the life of the process, for every client and loop."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from embedwire._config import BatchLimits, Form, Kind, RateLimit, Variant
from embedwire._pace import Budget, LastMinute


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What is known about a server; ``None`` where it did not tell and nothing showed it yet.

    Attributes:
        url: Base URL, version included.
        software: The reply's ``Server`` header, such as ``llama.cpp``.
        model: The model that requests name.
        dimensions: Numbers per vector.
        slots: Requests that the server works on at the same time.
        context: Tokens that one text may have.
        max_texts: Most texts in one request, learned from the answer that refused more.
        max_chars: Most characters in one request, likewise.
        base64: Whether vectors in base64 were seen to equal those in decimal.
    """

    url: str
    software: str | None = None
    model: str | None = None
    dimensions: int | None = None
    slots: int | None = None
    context: int | None = None
    max_texts: int | None = None
    max_chars: int | None = None
    base64: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a server says of itself."""

    slots: int | None = None
    context: int | None = None
    max_texts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What "auto" stands for now, at one server, for one model and one kind of texts.

    Attributes:
        texts: Most texts in one request.
        requests: Most requests in flight; None: the start.
        most: Most texts that went well after more had failed for their number; None: nothing failed so.
    """

    texts: int
    requests: int | None = None
    most: int | None = None


@dataclass(slots=True)
class Learned:
    """The mutable twin of `ServerInfo`, for every thread: no locks, and an update that is lost does no harm."""

    url: str
    software: str | None = None
    served_model: str | None = None
    asked_model: bool = False
    widths: dict[Variant, int] = field(default_factory=dict)
    # Per model: a gateway has servers of many kinds.
    base64: dict[Variant, bool] = field(default_factory=dict)
    sizes: dict[tuple[Variant, Kind], Sizes] = field(default_factory=dict)
    slots: int | None = None
    context: int | None = None
    max_texts: int | None = None
    max_chars: int | None = None
    alive: bool = False
    asked: bool = False
    unanswered: int = 0  # questions that failed for a passing reason
    repeats: Budget = field(default_factory=Budget)
    minutes: dict[RateLimit, LastMinute] = field(default_factory=dict)

    def take(self, told: Told) -> None:
        """Takes in what the server says of itself."""
        self.slots, self.context = told.slots, told.context
        self.max_texts = told.max_texts or self.max_texts

    def minute(self, rate: RateLimit) -> LastMinute:
        """What clients with this rate limit have sent lately."""
        return self.minutes.get(rate) or self.minutes.setdefault(rate, LastMinute(rate))

    def free_requests(self, form: Form) -> bool:
        """Whether the number of requests in flight is to be found by trying: nobody said it."""
        answered = bool(self.widths)  # so that it is known what software it is not
        return form.concurrency is None and self.slots is None and answered and self.software != "llama.cpp"

    def info(self, model: str | None, dimensions: int | None) -> ServerInfo:
        """What is known, for one choice of model and dimensions."""
        return ServerInfo(
            url=self.url,
            software=self.software,
            model=model or self.served_model,
            dimensions=dimensions or self.widths.get((model, dimensions)),
            slots=self.slots,
            context=self.context,
            max_texts=self.max_texts,
            max_chars=self.max_chars,
            base64=self.base64.get((model, dimensions)),
        )


# Documents: the number that kept the first llama.cpp server alive. Queries are short, and wait together only when
# many ask at once.
START: dict[Kind, Sizes] = {"document": Sizes(texts=5), "query": Sizes(texts=32)}
MOST_REQUESTS = 128
DEFAULT_CONCURRENCY = 8
# llama-server's HTTP threads are its slots and 4 more, and a kept connection keeps one of them: a connection
# beyond that waits until another was idle for 5 s. Its slots are 1 or more, so 4 is safe while they are unknown.
LLAMA_CPP_SPARE = 4
REPLY_BASE = 4 * 2**20  # bytes; also for answers to questions, such as a list of models
REPLY_PER_TEXT = 2**18  # 8192 numbers in decimal take about 180 KiB; common models have 384 to 4096
STREAM_CHUNK = 256  # texts per piece of a stream whose batches are limited by characters alone


def batch_limits(form: Form, server: Learned, kind: Kind = "document") -> BatchLimits:
    """The most that one request may carry now: the user's numbers, under what the server was seen to take."""
    texts, chars = (
        (form.batch.texts, form.batch.chars) if form.batch else (_auto_texts(form, server, kind), None)
    )
    texts, chars = least(texts, server.max_texts), least(chars, server.max_chars)
    if form.rate is not None:
        texts, chars = least(texts, form.rate.texts), least(chars, form.rate.chars)
    return BatchLimits(texts=texts, chars=chars)


def sizes(form: Form, server: Learned, kind: Kind) -> Sizes:
    """What was found so far, or the start."""
    return server.sizes.get((form.variant, kind), START[kind])


def _auto_texts(form: Form, server: Learned, kind: Kind) -> int:
    found = [sizes(form, server, either) for either in START]
    most = min((size.most for size in found if size.most is not None), default=sys.maxsize)
    return min(sizes(form, server, kind).texts, most)


def concurrency(form: Form, server: Learned) -> int:
    """The most requests that may be in flight now."""
    if form.concurrency is not None:
        return form.concurrency
    if server.slots is not None:
        return min(2 * server.slots, server.slots + LLAMA_CPP_SPARE)
    if not server.free_requests(form):
        return LLAMA_CPP_SPARE
    return sizes(form, server, "document").requests or DEFAULT_CONCURRENCY


def max_reply(form: Form, texts: int) -> int:
    """The most bytes that are read of the reply to a request of ``texts`` texts."""
    return form.max_reply if form.max_reply is not None else REPLY_BASE + REPLY_PER_TEXT * texts


def least(one: int | None, other: int | None) -> int | None:
    """The smaller of two limits, of which either may be missing."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


_known: dict[str, Learned] = {}


def learned(base_url: str) -> Learned:
    """What is known about the server at ``base_url``."""
    # Atomic, and so without a lock that a fork could copy.
    return _known.setdefault(base_url, Learned(base_url))


def forget() -> None:
    """Forgets every server; for tests."""
    _known.clear()
