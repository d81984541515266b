"""What was learnt of each server and of each model on it; kept for the life of the process, for every client and loop.

No locks: each fact is one plain assignment, and one that is lost does no harm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from embedwire._servers.agreement import Agreed, Terms
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._servers.limiter import CHARS, MINUTE, REQUESTS, SECOND, TEXTS, Limit, Quota, RateLimiter
from embedwire._servers.sizes import Sizing
from embedwire._settings.address import Target
from embedwire._settings.options import RateLimit
from embedwire._settings.settings import Form, Variant

K = TypeVar("K")
V = TypeVar("V")

MOST_MODELS = 4096  # that are remembered: a process may meet a new key with each of its users


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What is known about a server; ``None`` where it did not tell and nothing showed it yet.

    Attributes:
        url: Base URL, up to and with its version: what stands before ``/embeddings``.
        software: The reply's ``Server`` header, such as ``llama.cpp``.
        model: The model that requests name.
        dimensions: Numbers per vector.
        slots: Requests that the server works on at the same time.
        context: Tokens that one text may have.
        max_texts: Most texts in one request, learned from the answer that refused more.
        max_chars: Most characters in one request, likewise.
        base64: Whether vectors in base64 were seen to be as those in decimal.
        batch_size: Most texts that one request carries now; None: no limit but that of characters. While
            ``batch_size="auto"`` this is what was found so far.
        concurrency: Requests with documents that may be in flight now, likewise. Both do not count in a comparison.
        servers: Where there are several, the same of each; the rest is then of the first one in use. Else empty.
        state: Of one of several: "in use"; "not met" until it was compared with the others; "left out" where it has
            another model, or refuses what the client asks; "set aside" while it is away, fails or hangs.
        reason: Why it is not in use.
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
    batch_size: int | None = field(default=None, compare=False)
    concurrency: int | None = field(default=None, compare=False)
    servers: tuple[ServerInfo, ...] = ()
    state: str = "in use"
    reason: str = ""


_servers: dict[str, ServerFacts] = {}
_models: dict[tuple[Target, Variant], ModelFacts] = {}
_sizings: dict[tuple[Target, Variant], Sizing] = {}
_agreed: dict[tuple[frozenset[Target], Variant, Terms], Agreed] = {}
_quotas: dict[tuple[Target, Limit], Quota] = {}
_quotas_lock = [threading.RLock()]  # the one in use; a forked child gets a new one


def server_facts(base_url: str) -> ServerFacts:
    """What is known about a server."""
    return _remember(_servers, base_url, ServerFacts)


def model_facts(target: Target, variant: Variant) -> ModelFacts:
    """What a visitor knows of a model."""
    return _remember(_models, (target, variant), ModelFacts)


def sizing(target: Target, variant: Variant) -> Sizing:
    """How large requests for a model may be."""
    return _remember(_sizings, (target, variant), lambda: Sizing(server_facts(target.base_url)))


def agreed(targets: Iterable[Target], variant: Variant, terms: Terms) -> Agreed:
    """What is known of the model of several servers, which are compared in one variant."""
    return _remember(_agreed, (frozenset(targets), variant, terms), Agreed)


def rate_limiter(target: Target, rate: RateLimit, now: float) -> RateLimiter:
    """What holds a visitor to a limit; what was not used for a minute is forgotten meanwhile."""
    lock = _quotas_lock[0]
    wanted = [
        (REQUESTS, rate.requests, MINUTE),
        (REQUESTS, rate.per_minute, MINUTE),
        (REQUESTS, rate.per_second, SECOND),
        (TEXTS, rate.texts, MINUTE),
        (CHARS, rate.chars, MINUTE),
    ]
    keys = [(target, Limit(counts, most, window)) for counts, most, window in wanted if most is not None]
    with lock:
        if not all(key in _quotas for key in keys):
            for key, quota in list(_quotas.items()):
                if quota.idle(now):
                    del _quotas[key]
        quotas = [_quotas.setdefault(key, Quota(key[1])) for key in keys]
        for quota in quotas:
            quota.touch(now)
    return RateLimiter(tuple(quotas), lock)


def servers_info(targets: Sequence[Target], terms: Terms, *forms: Form) -> ServerInfo:
    """What is known of the servers of a client, for its first form of requests, or else for the others.

    They are compared in the first form, so that documents and queries are of one model.
    """
    infos = [server_info(target, *forms) for target in targets]
    if len(infos) == 1:
        return infos[0]
    states = agreed(targets, forms[0].variant, terms).states
    for place, target in enumerate(targets):
        of_forms = (states.get((target, form.variant)) for form in forms)
        state, reason = next(filter(None, of_forms), ("not met", ""))
        infos[place] = replace(infos[place], state=state, reason=reason)
    first = next((info for info in infos if info.state == "in use"), infos[0])
    return replace(first, servers=tuple(infos))


def server_info(target: Target, form: Form, *others: Form) -> ServerInfo:
    """What is known, for one form of requests, or else for the others that have the same model and dimensions."""
    facts = server_facts(target.base_url)
    models = [model_facts(target, one.variant) for one in (form, *others)]
    sizes = [sizing(target, one.variant) for one in (form, *others)]
    in_use = sizes[0].of(form)
    return ServerInfo(
        url=target.base_url if facts.base is None else target.endpoint.shown(facts.base),
        software=facts.software,
        model=form.model or _first(model.served for model in models),
        dimensions=form.dimensions or _first(model.width for model in models),
        slots=facts.told.slots,
        context=facts.told.context,
        max_texts=_first(size.max_texts for size in sizes),
        max_chars=_first(size.chars.most for size in sizes),
        base64=_first(model.base64 for model in models),
        batch_size=in_use.limits().texts,
        concurrency=in_use.wish().documents,
    )


def _first(values: Iterable[V | None]) -> V | None:
    return next((value for value in values if value is not None), None)


def forget() -> None:
    """Forgets every server: in a forked child, and between tests."""
    _servers.clear()
    _models.clear()
    _sizings.clear()
    _agreed.clear()
    _quotas.clear()
    _quotas_lock[0] = threading.RLock()


def _remember(known: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """The record of a key; a new one pushes the oldest out where there are too many."""
    found = known.get(key)
    if found is None:
        if len(known) >= MOST_MODELS:
            known.pop(next(iter(known)), None)
        # Atomic, and so without a lock that a fork could copy.
        found = known.setdefault(key, make())
    return found
