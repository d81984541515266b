"""What asks a server: one request at a time over the one seam to the network, counted, within a limit of time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from embedwire._http.failures import judge
from embedwire._http.messages import screened, to_error
from embedwire._http.records import Action, Fault, Matrix
from embedwire._http.reply import ContractBroken, decode
from embedwire._http.transport import AiohttpTransport
from embedwire._http.verdicts import Context, Unusable
from embedwire._http.wire import Break, Broken, Reply, encode
from embedwire._http.words import said
from embedwire._settings.address import Target
from embedwire._settings.options import Timeouts

MOST_REQUESTS = 200  # of one server, whatever it answers
MOST_SILENCES = 2  # requests without an answer in time, after which no more are sent
CONNECT = 5.0  # seconds at most to connect
PATIENCE = 3.0  # seconds at most before a request that was held off goes once more
_REPLY = 2**26  # bytes at most
_SILENT = (Break.READ_TIMEOUT, Break.TOTAL_TIMEOUT, Break.CONNECT_TIMEOUT)


class EnoughAsked(Exception):
    """No more is asked; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """How one embedding request ended: in vectors, or with a fault.

    Attributes:
        seconds: How long it took.
        matrix: One row for each text; None where there are none.
        base64: Whether they came in base64.
        tokens: Tokens that the server counted, where it tells.
        model: The model that the reply names.
        headers: Of the reply.
        reused: It went over a connection that was kept.
        fault: What went wrong.
        silent: Nothing came in time.
    """

    seconds: float
    matrix: Matrix | None = field(default=None, repr=False)
    base64: bool = False
    tokens: int | None = None
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    reused: bool = False
    fault: Fault | None = None
    silent: bool = False

    @property
    def refused(self) -> bool:
        """Whether the server says that this request is wrong, and not that something else is."""
        status = self.fault.status if self.fault is not None else None
        return status is not None and 400 <= status < 500 and status not in (401, 403, 408, 429)

    @property
    def refusal(self) -> str:
        """A refusal in the server's words, without ours."""
        assert self.fault is not None  # noqa: S101 - it was refused
        return f"refused ({self.fault.status}){self._words}"

    @property
    def why(self) -> str:
        """What went wrong, with the server's words; "" where nothing did."""
        return "" if self.fault is None else self.fault.what + self._words

    @property
    def _words(self) -> str:
        words = "" if self.fault is None else self.fault.words.rstrip(".")
        return f': "{words}"' if words else ""


class Asker:
    """Asks one server, as one visitor. Its state is where it embeds, what was sent, and how often nothing came back.

    Args:
        target: The server and who asks.
        timeout: Seconds for one request.
        seconds: Seconds for all of them.
    """

    def __init__(self, target: Target, *, timeout: float, seconds: float) -> None:
        self.target = target
        self.timeout = timeout
        self.requests = 0
        self._transport = AiohttpTransport(target)
        self._seconds = seconds
        self._end = asyncio.get_running_loop().time() + seconds
        self._silences = 0
        self._base = target.endpoint.bases[0]
        self._model: str | None = None

    @property
    def left(self) -> float:
        """Seconds that are left for all."""
        return self._end - asyncio.get_running_loop().time()

    def settle(self, base: str, model: str | None) -> None:
        """From now on texts go to this path, and name this model."""
        self._base, self._model = base, model

    async def get(self, url: str) -> Reply | Broken:
        """Asks something else than vectors.

        Raises:
            EnoughAsked: There is no time left, or the server has gone silent.
        """
        return await self._send("GET", url, None)

    async def embed(
        self, texts: Sequence[str], *, encoding: str | None = None, dimensions: int | None = None
    ) -> Heard:
        """Asks for vectors; once more where the server has too much to do just now.

        Raises:
            EnoughAsked: There is no time left, or the server has gone silent.
        """
        body = encode(texts, model=self._model, encoding=encoding, dimensions=dimensions)
        heard, again = await self._embed(texts, body)
        if again is not None:
            await asyncio.sleep(min(again, PATIENCE))
            heard, _ = await self._embed(texts, body)
        return heard

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    def fault_of(self, outcome: Reply | Broken | Unusable, texts: Sequence[str] = ()) -> Fault:
        """What went wrong, in words that repeat neither a text nor a key."""
        return self._judged(outcome, texts)[0]

    def message(self, fault: Fault) -> str:
        """A fault as the client would raise it: what, where, the server's words, and the cure."""
        error = to_error(fault, attempts=0, server=self.target.base_url, index=None, count=None)
        return str(error)

    async def _embed(self, texts: Sequence[str], body: bytes) -> tuple[Heard, float | None]:
        """One request, and the pause after which it pays to send it again."""
        begun = asyncio.get_running_loop().time()
        self.requests += 1
        outcome = await self._send("POST", self.target.endpoint.embeddings(self._base), body)
        seconds = asyncio.get_running_loop().time() - begun
        if isinstance(outcome, Broken):
            fault, _ = self._judged(outcome, texts)
            return Heard(seconds=seconds, fault=fault, silent=outcome.how in _SILENT), None
        heard = Heard(seconds=seconds, headers=outcome.headers, reused=outcome.reused)
        if outcome.status != 200:
            fault, action = self._judged(outcome, texts)
            pause = (fault.retry_after or 1.0) if action is Action.THROTTLE else None
            return replace(heard, fault=fault), pause
        try:
            decoded = decode(outcome.body, len(texts))
        except ContractBroken as broken:
            unusable = Unusable(what=str(broken), cure=broken.cure, said=said(outcome.body))
            return replace(heard, fault=self.fault_of(unusable, texts)), None
        return replace(
            heard,
            matrix=decoded.matrix,
            base64=decoded.base64,
            tokens=decoded.tokens,
            model=decoded.model,
        ), None

    async def _send(self, method: str, url: str, body: bytes | None) -> Reply | Broken:
        if self.left <= 0:
            raise EnoughAsked(f"the {self._seconds:g} s for all questions are used up")
        if self._silences >= MOST_SILENCES:
            raise EnoughAsked(f"{self._silences} requests got no answer within {self.timeout:g} s")
        if self.requests > MOST_REQUESTS:
            raise EnoughAsked(f"{MOST_REQUESTS} requests are enough")
        total = min(self.timeout, self.left)
        timeouts = Timeouts(total=total, connect=min(total, CONNECT), sock_read=total)
        outcome = await self._transport.request(method, url, body, timeouts, _REPLY)
        if isinstance(outcome, Broken) and outcome.how in _SILENT:
            self._silences += 1
        return outcome

    def _judged(self, outcome: Reply | Broken | Unusable, texts: Sequence[str]) -> tuple[Fault, Action]:
        has_key = self.target.api_key is not None or bool(self.target.headers)
        tls = self.target.endpoint.origin.startswith("https")
        verdict = judge(outcome, Context(key=has_key, tls=tls, texts=texts))
        words = screened(verdict.fault.words, [*self._transport.secrets(), *texts])
        return replace(verdict.fault, words=printable(words)), verdict.action


def printable(words: str) -> str:
    """What a server says as a terminal may show it."""
    return "".join(char if char.isprintable() else "?" for char in words)
