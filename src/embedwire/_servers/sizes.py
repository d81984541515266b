"""How large a request may be, and how many may be in flight: the user's numbers, under what the server takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from embedwire._servers.bounds import MOST_REQUESTS, START, Bounds, Sizes
from embedwire._servers.facts import ServerFacts
from embedwire._servers.lengths import Lengths
from embedwire._servers.pace import Window
from embedwire._servers.slots import Wish
from embedwire._servers.tried import Found
from embedwire._servers.tuner import Tuner, nothing_found
from embedwire._settings.options import BatchLimits, Kind, RateLimit
from embedwire._settings.settings import Form, Variant

QUERY_ROOM = 4  # requests with queries that may be in flight beside as many with documents as may be
REPLY_BASE = 4 * 2**20  # bytes; also for answers to questions, such as a list of models
REPLY_PER_TEXT = 2**18  # 8192 numbers in decimal take about 180 KiB; common models have 384 to 4096
STREAM_CHUNK = 256  # texts per piece of a stream whose batches are limited by characters alone
REST = 64  # requests at a cap that go well before a larger one is tried
REST_LEAST, REST_MOST = 16, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that one request carries; None means no limit of that kind.

    Attributes:
        texts: Texts.
        chars: Characters; a single longer text travels alone.
        work: Characters and `tuner.PER_TEXT` for each text; None means no limit.
        free: Texts that may always travel together, whatever their work.
        share: Texts in each of several requests at least, where few are spread over them.
        alone: Characters from which on a text travels alone.
    """

    texts: int | None = None
    chars: int | None = None
    work: float | None = None
    free: int = 1
    share: int = 1
    alone: int | None = None


# What is looked for: for a kind of texts, a form's model and fields, beside the numbers that the user set.
Choice: TypeAlias = tuple[Kind, Variant, BatchLimits | None, int | None, RateLimit | None]


class Cap:
    """The most of something (texts, characters) that a server takes in one request.

    A cap that the server named holds at once. One that was only inferred, since a request failed whole and its parts
    did not, is a suspicion until it happened twice, with no larger one between that went well. After some requests at
    the cap that went well, one of twice the size is tried: the server may take more by now. Written by `_queue`.

    Attributes:
        most: The most; None where nothing was refused.
    """

    __slots__ = ("_good", "_rest", "_suspected", "_trying", "most")

    def __init__(self) -> None:
        self.most: int | None = None
        self._suspected: int | None = None
        self._good = 0
        self._rest = REST
        self._trying = False

    @property
    def limit(self) -> int | None:
        """The most that the next request may carry."""
        return self.most * 2 if self.most is not None and self._good >= self._rest else self.most

    def sent(self, size: int) -> None:
        """A request of this size goes out; one larger one at a time is enough to see."""
        if self.most is not None and size > self.most:
            self._good, self._trying = 0, True

    def named(self, most: int) -> None:
        """The server said how much it takes."""
        self._back_to(most)

    def inferred(self, most: int) -> None:
        """A request was refused whole, and went well in parts, the largest of which had so much."""
        if self._suspected is None:
            self._suspected = most
        else:
            self._back_to(max(most, self._suspected))

    def refused(self, size: int) -> None:
        """A request of this size was refused as a whole, for a reason that may be its size."""
        if self.most is not None and size > self.most:
            self._back_to(self.most)

    def taken(self, size: int) -> None:
        """A request of this size went well."""
        if self._suspected is not None and size > self._suspected:
            self._suspected = None  # it was no cap
        if self.most is None or size * 2 <= self.most:
            return
        self._good += 1
        if size > self.most:
            self.most, self._good, self._trying = size, 0, False
            self._rest = max(REST_LEAST, self._rest // 2)

    def _back_to(self, most: int) -> None:
        was_due = self.most is not None and self._good >= self._rest
        if self._trying or was_due:  # a larger one was tried, in vain
            self._rest = min(REST_MOST, self._rest * 2)
        self.most, self._suspected, self._good, self._trying = most, None, 0, False


class Sizing:
    """The sizes that were found for one model, as one visitor sees it. Written by `_queue`.

    Attributes:
        texts: The most texts in one request.
        chars: The most characters in one request.
        lengths: The longest text.
        found: The sizes that were found, for each choice of what is to be found.
    """

    def __init__(self, server: ServerFacts) -> None:
        self.server = server
        self.texts = Cap()
        self.chars = Cap()
        self.lengths = Lengths()
        self.found: dict[Choice, Found] = {}

    @property
    def max_texts(self) -> int | None:
        """The most texts in one request: what the server told, or what it refused."""
        return least(self.server.told.max_texts, self.texts.most)

    @property
    def texts_allowed(self) -> int | None:
        """The most texts that the next request may carry, whatever the user says."""
        return least(self.server.told.max_texts, self.texts.limit)

    def sent(self, texts: int, chars: int) -> None:
        """A request goes out with so many texts and characters."""
        self.texts.sent(texts)
        self.chars.sent(chars)

    def of(self, form: Form, tuners: dict[Choice, Tuner] | None = None) -> FormSizes:
        """The sizes for one form; forms that leave the same to be found find it together.

        Args:
            form: The form.
            tuners: Those of one loop; None: nothing is looked for, and what was found is shown.
        """
        return FormSizes(self, form, tuners)


class Scope:
    """What may be tried for one form at one server; made anew where something was learnt.

    Its state is what was made of what is known of the server.
    """

    def __init__(self, sizing: Sizing, form: Form) -> None:
        self._sizing = sizing
        self._form = form
        self._learnt: object = None
        self._made: dict[Kind, Bounds] = {}

    def bounds(self, kind: Kind) -> Bounds:
        """What may be tried now."""
        server, most = self._sizing.server, self._sizing.texts_allowed
        learnt = server.kind, server.told.slots, most
        if learnt != self._learnt:
            documents = self._make(most)
            # The number of requests is found with documents alone, as queries seldom come in numbers.
            queries = replace(documents, fixed_requests=START["query"].requests, slots=None)
            self._learnt, self._made = learnt, {"document": documents, "query": queries}
        return self._made[kind]

    def _make(self, most: int | None) -> Bounds:
        kind, slots, batch = self._sizing.server.kind, self._sizing.server.told.slots, self._form.batch
        spare, rate = None if kind is None else kind.spare_threads, self._form.rate
        return Bounds(
            # Nothing grows at a server that may have one slot, and threads for a few connections.
            known=slots is not None or (kind is not None and spare is None),
            fixed_texts=None if batch is None else batch.texts or START["document"].texts,
            fixed_requests=self._form.concurrency,
            texts=most,
            requests=MOST_REQUESTS if slots is None or spare is None else slots + spare,
            slots=slots,
            fragile=spare is not None,
            counted=rate is not None and any((rate.requests, rate.per_minute, rate.per_second)),
        )


class FormSizes:
    """The sizes that hold for one form now: the user's numbers, under what the server was seen to take.

    Written by `_queue`. Its state is the age of the server's window.

    Args:
        sizing: What was found for the model.
        form: The form.
        tuners: Those of one loop; None: nothing is looked for, and what was found is shown.
    """

    def __init__(self, sizing: Sizing, form: Form, tuners: dict[Choice, Tuner] | None) -> None:
        self.sizing = sizing
        self._form = form
        self._scope = Scope(sizing, form)
        self._age: int | None = None
        self._choices: dict[Kind, Choice] = {
            kind: (kind, form.variant, form.batch, form.concurrency, form.rate) for kind in START
        }
        self.tuners: dict[Kind, Tuner] = {}
        if tuners is not None:
            for kind, choice in self._choices.items():
                if choice not in tuners:
                    tuners[choice] = self._tuner(kind, choice)
                self.tuners[kind] = tuners[choice]

    def _tuner(self, kind: Kind, choice: Choice) -> Tuner:
        found, bounds = self.sizing.found, partial(self._scope.bounds, kind)
        return Tuner(kind, bounds, found.get(choice), partial(found.__setitem__, choice))

    def limits(self, kind: Kind = "document") -> Limits:
        """The most that one request may carry now."""
        batch, most = self._form.batch, self.sizing.texts_allowed
        if batch is not None:
            chars = least(batch.chars, self.sizing.chars.limit)
            return Limits(texts=least(batch.texts, most), chars=chars, alone=self.sizing.lengths.alone)
        texts = self.now(kind).texts
        return Limits(
            texts=least(texts, most),
            chars=self.sizing.chars.limit,
            work=self.tuners[kind].load.most if self.tuners else self._found(kind).work,
            free=min(self._scope.bounds(kind).first(kind).texts, texts),
            share=self.tuners[kind].share if self.tuners else 1,
            alone=self.sizing.lengths.alone,
        )

    def now(self, kind: Kind) -> Sizes:
        """The sizes that hold now, where they are to be found."""
        return self.tuners[kind].sizes if self.tuners else self._found(kind).now

    def ahead(self) -> int:
        """Documents that should be at hand: those in flight, and what the next step of the slow start would send."""
        found, bounds = self._found("document"), self._scope.bounds("document")
        step = next(iter(found.slow_start), None) if bounds.known else None
        larger = found.sizes if step is None else bounds.after(found.sizes, step, growth=2.0)
        return found.now.in_flight + larger.in_flight

    def _found(self, kind: Kind) -> Found:
        found = self.sizing.found.get(self._choices[kind])
        return found or nothing_found(kind, self._scope.bounds(kind))

    def sent(self, kind: Kind, work: float, now: float, *, all_taken: bool, window: Window) -> int:
        """A request goes out; its number, for the tuner of its kind.

        Args:
            kind: Of the texts.
            work: In it.
            now: The time.
            all_taken: It is full, and as many requests are in flight as may be.
            window: What the server can take after trouble.
        """
        before, self._age = self._age, window.age
        if before not in (None, window.age):
            for tuner in self.tuners.values():
                tuner.overloaded(window.allowed or MOST_REQUESTS)
        if kind == "query":
            self.tuners["document"].query(now)
        return self.tuners[kind].sent(self, work, now, all_taken=all_taken, allowed=window.allowed)

    def are_measured(self, kind: Kind) -> bool:
        """Whether it matters that there is a place for a request, and no text for it."""
        return self.tuners[kind].measures(self)

    def rest(self, kind: Kind) -> None:
        """There is a place for a request, and no text for it."""
        self.tuners[kind].idle(self)

    def parted(self, kind: Kind) -> None:
        """A part of a request that failed goes out, which has another size."""
        self.tuners[kind].parted()

    def wish(self) -> Wish:
        """The most requests in flight now."""
        if self._form.concurrency is not None:
            return Wish.of(self._form.concurrency)
        bounds, documents = self._scope.bounds("document"), self.now("document").requests
        room = QUERY_ROOM if bounds.known else 0
        return Wish(documents, max(documents, min(bounds.requests, documents + room)))


def max_reply(form: Form, texts: int) -> int:
    """The most bytes that are read of the reply to a request of ``texts`` texts."""
    return form.max_reply if form.max_reply is not None else REPLY_BASE + REPLY_PER_TEXT * texts


def least(one: int | None, other: int | None) -> int | None:
    """The smaller of two limits, of which either may be missing."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
