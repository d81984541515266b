"""What a failure is judged by, and what the judgment says: the records of `failures` and `statuses`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from embedwire._http.records import Action, Fault
from embedwire._http.words import SILENT, Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """A success whose body broke the reply contract.

    Attributes:
        what: What is wrong with it.
        cure: What to do about it; "" for the usual.
        position: Place in the request of the text at fault, where that is known.
        cut: It stops in the middle.
        said: What it says instead of vectors.
    """

    what: str
    cure: str = ""
    position: int | None = None
    cut: bool = False
    said: Said = SILENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What else the decision rests on.

    Attributes:
        alive: This server has answered before.
        accepted: A request of this form went well before.
        resent: The request was already sent again for free.
        failures: How many attempts at these texts failed before.
        timeouts: How often these texts ran into a timeout before.
        breaks: How often the server broke off at these texts, or failed with a 5xx, before.
        same: The last reply to this request was the same, byte by byte.
        in_flight: Requests on the wire, this one included.
        awaited: Others wait for the server, which was not ready when they were sent.
        lone: There is one text in the request, or none.
        bisecting: The text at fault is being searched for.
        suspicious: A failure that strikes again may be one text's.
        key: A key, or a header of the user's, goes along.
        tls: The URL says https.
        texts: The texts in the request: what a server repeats of them is no word of its own.
    """

    alive: bool = False
    accepted: bool = False
    resent: bool = False
    failures: int = 0
    timeouts: int = 0
    breaks: int = 0
    same: bool = False
    in_flight: int = 1
    awaited: bool = False
    lone: bool = False
    bisecting: bool = False
    suspicious: bool = False
    key: bool = False
    tls: bool = False
    texts: Sequence[str] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do, and what to say if it does not help.

    Attributes:
        action: What to do.
        fault: What to say.
        if_ready: With WAIT: what to do where the server turns out to be ready, and to have been all the time; None:
            send again, after a pause that grows.
        struck: With WAIT: it struck these texts before, not others: `if_ready` holds where the server was gone, too.
        pause: Seconds that a repeat waits at least.
        overload: The server has too much to do: fewer requests should be in flight.
        singly: One of the requests on the wire may have brought it down: the next ones should go one at a time.
        mark: Of the reply, to know it again.
    """

    action: Action
    fault: Fault
    if_ready: Action | None = None
    struck: bool = False
    pause: float = 0.0
    overload: bool = False
    singly: bool = False
    mark: int | None = None
