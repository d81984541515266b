"""What the gateway counts, in Prometheus' text format. Nothing that a client or a key names is a label."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds

_PREFIX = "embedwire_gateway_"
_Labels = tuple[tuple[str, str], ...]


class Histogram:
    """How often something took how long. Its state is the counts."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """It took so long once more."""
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def samples(self, name: str, labels: _Labels) -> Iterator[str]:
        """Its lines: buckets that add up, the sum, the count."""
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._counts, strict=True):
            total += count
            yield sample(f"{name}_bucket", (*labels, ("le", bound)), total)
        yield sample(f"{name}_sum", labels, self._sum)
        yield sample(f"{name}_count", labels, total)


class Metrics:
    """Adds up what the gateway does. Its state is the sums.

    Attributes:
        in_flight: Requests that are being answered.
        queued: Texts that wait for a server, or are there.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.queued = 0
        self._requests: dict[int, int] = {}  # by status
        self._texts = {"query": 0, "document": 0}
        self._tokens = 0
        self._failures: dict[str, int] = {}  # by kind
        self._server_failures: dict[tuple[str, str], int] = {}  # by server and kind
        self._seconds = {"query": Histogram(), "document": Histogram()}

    def answered(self, status: int) -> None:
        """A request for vectors was answered with a status; 499 where its client left before."""
        self._requests[status] = self._requests.get(status, 0) + 1

    def embedded(self, kind: str, texts: int, tokens: int | None, seconds: float) -> None:
        """So many texts of a kind got their vectors, in so many seconds."""
        self._texts[kind] += texts
        self._tokens += tokens or 0
        self._seconds[kind].add(seconds)

    def failed(self, kind: str) -> None:
        """A request failed for such a reason."""
        self._failures[kind] = self._failures.get(kind, 0) + 1

    def failed_at(self, server: str, kind: str) -> None:
        """The reason came from a server."""
        self._server_failures[server, kind] = self._server_failures.get((server, kind), 0) + 1

    def text(self, servers: Mapping[str, Mapping[str, float]]) -> str:
        """All of it.

        Args:
            servers: By URL, what there is to tell of each: ``ready``, ``in_flight``, ``texts``.
        """
        return "".join(f"{line}\n" for line in self._lines(servers))

    def _lines(self, servers: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
        by = _by
        yield from _family("requests_total", "counter", "Requests for vectors, by HTTP status.",
                           by("status", self._requests))  # fmt: skip
        yield from _family("texts_total", "counter", "Texts that got a vector.", by("kind", self._texts))
        yield from _family("tokens_total", "counter", "Tokens in them, where the servers tell.",
                           [((), self._tokens)])  # fmt: skip
        yield from _family("failures_total", "counter", "Requests for vectors that failed, by reason.",
                           by("kind", self._failures))  # fmt: skip
        yield from _family("in_flight", "gauge", "Requests that are being answered.", [((), self.in_flight)])
        yield from _family("queued_texts", "gauge", "Texts that wait for a server, or are there.",
                           [((), self.queued)])  # fmt: skip
        yield from _header("request_seconds", "histogram", "From a request's arrival to its vectors.")
        for kind, histogram in self._seconds.items():
            yield from histogram.samples(f"{_PREFIX}request_seconds", (("kind", kind),))
        for name, (type_, told) in _OF_SERVERS.items():
            values = [((("server", url),), values[name]) for url, values in servers.items()]
            yield from _family(f"server_{name}{'_total' * (type_ == 'counter')}", type_, told, values)
        failures = [
            ((("server", url), ("kind", kind)), count) for (url, kind), count in self._server_failures.items()
        ]
        yield from _family("server_failures_total", "counter", "The same, at each server.", failures)


_OF_SERVERS = {
    "ready": ("gauge", "Whether the server answers that it is ready."),
    "in_flight": ("gauge", "Requests in flight at the server."),
    "texts": ("counter", "Texts that the server embedded."),
}


def sample(name: str, labels: _Labels, value: float) -> str:
    """One line."""
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _by(label: str, counts: Mapping[int, int] | Mapping[str, int]) -> list[tuple[_Labels, float]]:
    return [(((label, str(value)),), count) for value, count in counts.items()]


def _header(name: str, type_: str, told: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {told}"
    yield f"# TYPE {_PREFIX}{name} {type_}"


def _family(name: str, type_: str, told: str, values: Iterable[tuple[_Labels, float]]) -> Iterator[str]:
    yield from _header(name, type_, told)
    for labels, value in values:
        yield sample(f"{_PREFIX}{name}", labels, value)
