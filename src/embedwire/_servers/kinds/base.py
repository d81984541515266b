"""What the rest of the package may ask a kind of server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a server says of itself; None where it does not.

    Attributes:
        slots: Requests that it works on at the same time.
        context: Tokens that one text may have.
        max_texts: Most texts in one request.
    """

    slots: int | None = None
    context: int | None = None
    max_texts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A server's words in an error, as regular expressions without regard to case; "" where it has none.

    Attributes:
        of_text: The text itself is at fault (there is no number for it), whatever the status.
        too_long: The same, and it is its length.
        tokens: The same, with the groups ``tokens`` and ``limit``.
        too_many: There are too many texts, with the group ``most``.
        too_large: The request has too many tokens for a limit of its rate, so that a smaller one passes.
        of_request: The request itself is at fault: its model, a field, a parameter that is missing.
        of_model: The same, and it is the name of the model.
        of_key: The key is not accepted.
        used_up: The account has no money, or no quota, left.
        loading: The model is still loading.
        unloaded: The model was put out of memory, and may come back.
        throttled: Too much was sent in too short a time.
    """

    of_text: str = ""
    too_long: str = ""
    tokens: str = ""
    too_many: str = ""
    too_large: str = ""
    of_request: str = ""
    of_model: str = ""
    of_key: str = ""
    used_up: str = ""
    loading: str = ""
    unloaded: str = ""
    throttled: str = ""


def tells_nothing(reply: Mapping[str, Any]) -> Told:
    """Of a server without a path that tells."""
    return Told()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKind:
    """One server software.

    Attributes:
        name: What it calls itself.
        server_header: The start of its ``Server`` header, in small letters; "" where that tells nothing.
        own_header: A header that no other software sends; "" for none.
        owned_by: What its list of models says of their owner, in small letters; "" where that tells nothing.
        tells: Path, from the root, of what it says of itself; None where there is none.
        read: That reply → what is useful of it.
        spare_threads: Connections that it serves beyond its slots, where each connection holds one of its threads;
            None: connections cost nothing.
        takes_any_name: Whether it embeds under any name of a model, and so under a wrong one.
        drops_work: Whether it stops computing when its client leaves.
        final: Statuses that it answers only after it has repeated the request itself, so that no repeat helps.
        cures: What to do about an error of its own, by words in it, as regular expressions.
        token_fields: Fields of an error that hold the text's tokens and the limit.
        words: Of its errors.
    """

    name: str
    server_header: str = ""
    own_header: str = ""
    owned_by: str = ""
    tells: str | None = None
    read: Callable[[Mapping[str, Any]], Told] = tells_nothing
    spare_threads: int | None = None
    takes_any_name: bool = False
    drops_work: bool = False
    final: tuple[int, ...] = ()
    cures: tuple[tuple[str, str], ...] = ()
    token_fields: tuple[str, str] | None = None
    words: Words = Words()

    def sends(self, headers: Mapping[str, str]) -> bool:
        """Whether these are the headers of its replies."""
        if self.own_header and self.own_header in headers:
            return True
        return bool(self.server_header) and headers.get("server", "").lower().startswith(self.server_header)


def count(value: object) -> int | None:
    """A number of things in a server's reply, where it is one."""
    return value if type(value) is int and 0 < value < 2**31 else None
