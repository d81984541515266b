"""The gateway as tests meet it: on the test's own loop, or as a process, in front of scriptable servers."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import numpy as np
import orjson
from aiohttp import web
from numpy.typing import NDArray

from embedwire.gateway import Limits, To, create_app
from embedwire.gateway.command import runner_of

SECRET = "the patient is called Kim"
FEW = Limits(body=2**20, texts=1000, queued=2000)


def rows(reply: dict[str, Any]) -> NDArray[np.float32]:
    """The vectors in a reply, which may be in base64: float32, as its decimal numbers have no more digits."""
    found = [item["embedding"] for item in reply["data"]]
    coded = [np.frombuffer(base64.b64decode(one), "<f4") if isinstance(one, str) else one for one in found]
    return np.array(coded, dtype=np.float32)


class Client:
    """One session with a gateway."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session
        self.port = int(url.rsplit(":", 1)[1])

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
        """Status, body and headers of a reply; JSON is decoded."""
        async with self.session.request(method, self.url + path, **options) as response:
            assert response.headers["Server"] == "embedwire-gateway"
            is_json = response.content_type == "application/json"
            body = await (response.json() if is_json else response.text())
            return response.status, body, response.headers

    async def embed(self, texts: str | Sequence[str], **fields: Any) -> dict[str, Any]:
        """The reply to a request that succeeds."""
        body = io.BytesIO(orjson.dumps({"input": texts, **fields}))
        status, reply, _ = await self.ask("POST", "/v1/embeddings", data=body)
        assert status == 200, reply
        assert isinstance(reply, dict)
        return reply

    async def vectors(self, texts: str | Sequence[str], **fields: Any) -> NDArray[np.float32]:
        """The vectors of some texts, a row each."""
        return rows(await self.embed(texts, **fields))

    async def refused(self, body: object, status: int, **options: Any) -> dict[str, Any]:
        """The error of a request that is refused with a status, in OpenAI's shape."""
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        got, reply, _ = await self.ask("POST", "/v1/embeddings", **sent, **options)
        assert got == status, reply
        assert {"message", "type", "param", "code"} <= set(reply["error"])
        assert SECRET not in str(reply)
        error: dict[str, Any] = reply["error"]
        return error

    async def until(self, holds: Callable[[dict[str, float]], bool]) -> None:
        """Returns when the metrics are seen to be so."""
        while not holds(await self.metrics()):  # noqa: ASYNC110 - it is another's state
            await asyncio.sleep(0.01)

    async def metrics(self, **options: Any) -> dict[str, float]:
        """Every sample: its name with its labels → its value."""
        _, text, _ = await self.ask("GET", "/metrics", **options)
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name.removeprefix("embedwire_gateway_"): float(value) for name, _, value in lines}


Start = Callable[..., Awaitable[Client]]


@asynccontextmanager
async def gateways() -> AsyncIterator[Start]:
    """What starts gateways on free ports of the test's loop, until the end of the block."""
    runners = []
    async with aiohttp.ClientSession() as session:

        async def start(
            *urls: str, api_keys: Sequence[str] = (), limits: Limits = FEW, around: Any = None, **options: Any
        ) -> Client:
            app = create_app(To(urls=urls, **options), api_keys=api_keys, limits=limits, around=around)
            runner = runner_of(app)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return Client(f"http://127.0.0.1:{runner.addresses[0][1]}", session)

        try:
            yield start
        finally:
            for runner in runners:
                await runner.cleanup()


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m embedwire gateway` with some arguments, once it says where it is; killed at the end."""
    command = [sys.executable, "-m", "embedwire", "gateway", *arguments]
    if "--port" not in arguments:
        command += ["--port", "0"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDWIRE_")}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environ | environment
    ) as gateway:
        assert gateway.stderr
        try:
            said = ""
            while "stop it with" not in said:
                line = gateway.stderr.readline()
                assert line, f"the gateway ended: {said}"
                said += line
            match = re.search(r" at (http://\S+)", said)
            assert match
            yield gateway, match[1]
        finally:
            gateway.kill()
