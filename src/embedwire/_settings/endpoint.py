"""What a server's URL says: where it is, and at which paths it may answer. Pure."""

from __future__ import annotations

import base64
import ipaddress
import re
import sys
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from embedwire._settings.secret import Secret
from embedwire.exceptions import InputError

_EXAMPLE = "pass for example 'http://localhost:8080'"
_VERSION = re.compile(r"v\d[\w.-]*")
_WHOLE = ("embeddings", "invocations")  # a path that ends so is the whole one; the second is Databricks'
_SOCKET = re.compile(r".+\.sock(et)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server is. A base is a path, without a slash at its end: ``/v1``, or "" for the root.

    Attributes:
        base_url: As messages show it: without user, password and query.
        origin: Scheme, host and port.
        bases: What may stand before ``/embeddings`` and ``/models``, in the order in which it is tried.
        tail: What stands after a base: ``/embeddings``, unless the URL says otherwise.
        query: Kept on each request; it may hold a key.
        socket: Path of a Unix socket; None for TCP.
    """

    base_url: str
    origin: str
    bases: tuple[str, ...]
    tail: str = "/embeddings"
    query: Secret | None = None
    socket: str | None = None

    def embeddings(self, base: str) -> str:
        """The URL of the embeddings."""
        return f"{self.origin}{base}{self.tail}"

    def models(self, base: str) -> str:
        """The URL of the list of models."""
        return f"{self.origin}{base}/models"

    def question(self, path: str) -> str:
        """The URL of a question about the server, such as ``/health``: its path stands before any version."""
        root: list[str] = []
        for segment in self.bases[0].split("/"):
            if _VERSION.fullmatch(segment):
                break
            root.append(segment)
        return f"{self.origin}{'/'.join(root)}{path}"

    def shown(self, base: str) -> str:
        """The URL up to a base, as messages show it."""
        if base == self.bases[0]:
            return self.base_url
        return f"{self.origin if self.socket is None else f'unix://{self.socket}'}{base}"

    def secrets(self) -> list[str]:
        """What of the query no message may repeat: all values but those that name a version."""
        return [] if self.query is None else _values(self.query.reveal())

    def with_query(self, url: str) -> str:
        """A URL as it is sent; not made before, as it may hold a key."""
        return url if self.query is None else f"{url}?{self.query.reveal()}"


def endpoint_of(url: object) -> Endpoint:
    """What a ``base_url`` means.

    A host alone stands for ``/v1``; a path is kept; one that ends in ``/embeddings`` is used as it stands.

    Raises:
        InputError: It is no URL of a server.
    """
    if not isinstance(url, str):
        raise InputError(
            f"base_url must be a str, a Server or a list of these, not {type(url).__name__}; {_EXAMPLE}"
        )
    parts = split(url, "base_url", _EXAMPLE)
    if parts.fragment:
        raise InputError("base_url must not have a '#' part; put keys into api_key= or headers=")
    socket, path = _socket_of(parts) if parts.scheme == "unix" else (None, parts.path)
    if socket is None:
        origin = shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
    else:
        origin, shown = "http://localhost", f"unix://{socket}"
    bases: tuple[str, ...]
    segments = [segment for segment in path.split("/") if segment]
    if segments[-1:] and segments[-1] in _WHOLE:
        cut = path.rindex(f"/{segments.pop()}")
        bases, tail = (path[:cut],), path[cut:]
        shown += _joined(segments)
    else:
        bases, tail = _bases(segments), "/embeddings"
        shown += bases[0]
    query = Secret(parts.query) if parts.query else None
    return Endpoint(base_url=shown, origin=origin, bases=bases, tail=tail, query=query, socket=socket)


def login_of(url: object) -> Secret | None:
    """The value of an ``Authorization`` header that a URL's user and password make; None where it has none."""
    parts = urlsplit(url.strip()) if isinstance(url, str) else None
    if parts is None or parts.username is None or parts.scheme.lower() not in ("http", "https"):
        return None
    user, password = unquote(parts.username), unquote(parts.password or "")
    return Secret("Basic " + base64.b64encode(f"{user}:{password}".encode("utf-8", "replace")).decode())


def dumped(url: str) -> str:
    """A URL for dumps and reprs: without user and password, and of the query only what names a version."""
    parts = urlsplit(url)
    kept = [field for field in parts.query.split("&") if _names_version(field)]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(kept)).geturl()


def split(url: str, name: str, example: str) -> SplitResult:
    """The parts of an absolute URL, its scheme in small letters.

    Raises:
        InputError: It is none, or of another scheme than HTTP's; for a ``base_url`` also of a Unix socket's.
    """
    url = url.strip()
    if not url or any(char <= " " or char == "\x7f" for char in url):
        raise InputError(f"{name} is empty or has white space in it; {example}")
    try:
        parts = urlsplit(url)
        port = parts.port
        if "[" in parts.netloc:
            ipaddress.IPv6Address((parts.hostname or "").partition("%")[0])  # Python 3.10 does not look
    except ValueError:
        raise InputError(f"{name} is no URL: its host or port cannot be read; {example}") from None
    parts = parts._replace(scheme=parts.scheme.lower())
    if name == "base_url" and parts.scheme == "unix":
        return parts
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InputError(f"{name} must start with http:// or https:// and name a host; {example}")
    return parts


def _bases(segments: list[str]) -> tuple[str, ...]:
    """What may stand before ``/embeddings``: a path is kept, and ``/v1`` may be missing or too much."""
    path = _joined(segments)
    if not segments:
        return "/v1", ""
    if segments[-1] == "v1":
        return path, _joined(segments[:-1])
    if any(_VERSION.fullmatch(segment) for segment in segments):
        return (path,)
    return path, f"{path}/v1"


def _joined(segments: list[str]) -> str:
    return "".join(f"/{segment}" for segment in segments)


def _socket_of(parts: SplitResult) -> tuple[str, str]:
    """A Unix socket, and the path behind it: the socket's own path ends with the first name in ``.sock``."""
    if sys.platform == "win32":
        raise InputError("base_url is a Unix socket, which Windows does not have; pass http://host:port")
    if parts.netloc or not parts.path.strip("/"):
        raise InputError(
            "base_url must name a Unix socket by its whole path, with three slashes: 'unix:///run/llama.sock'"
        )
    segments = parts.path.split("/")
    ends = [number for number, segment in enumerate(segments, 1) if _SOCKET.fullmatch(segment)]
    end = ends[0] if ends else len(segments)
    return unquote("/".join(segments[:end])), _joined(segments[end:])


def _values(query: str) -> list[str]:
    fields = [field for field in query.split("&") if not _names_version(field)]
    values = [field.partition("=")[2] or field for field in fields]
    return [form for value in values for form in {value, unquote(value)} if form]


def _names_version(field: str) -> bool:
    return re.fullmatch(r"(?:.*[-_.])?(?:api)?version", field.partition("=")[0].lower()) is not None
