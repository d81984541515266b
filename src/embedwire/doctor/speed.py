"""Checks of how long a server takes: one text after another, and at the client's own sizes."""

from __future__ import annotations

import asyncio

import numpy as np

from embedwire._clients.own import EmbeddingClient
from embedwire.doctor.asking import Asker
from embedwire.doctor.contact import Met
from embedwire.doctor.findings import Finding, note, ok
from embedwire.exceptions import EmbedwireError

ALONE = 10  # requests, one after another
FOR_ALONE, FOR_LOAD = 5.0, 8.0  # seconds at most
LOAD = 24  # texts that the client embeds, after it has asked what is over there
ROUNDS = 3  # requests of each that may be in flight
SLOW = 2.0  # seconds for one short text


async def latency(ask: Asker) -> Finding:
    """How long one text takes."""
    now = asyncio.get_running_loop().time
    begun, seconds = now(), list[float]()
    for number in range(ALONE):
        heard = await ask.embed([f"question {number}"])
        if heard.fault is not None:
            return note("latency", f"request {number + 1} of {ALONE}: {heard.why}", "See the server's log.")
        seconds.append(heard.seconds)
        if now() - begun > FOR_ALONE:
            break
    what = f"one text takes {_percentiles(seconds)}, of {len(seconds)} requests one by one"
    if float(np.median(seconds)) > SLOW:
        return note("latency", what, "See whether the model fits into memory, and what else runs there.")
    return ok("latency", what)


async def load(ask: Asker, client: EmbeddingClient, met: Met) -> Finding:
    """How long requests take at the sizes that the client finds for itself, and never more of them in flight."""
    count = max(8, min(LOAD, int(FOR_LOAD / (met.seconds or 1e-3))))
    try:
        await client.wait_ready(ask.timeout)
        await client.embed_array([f"document {number} of the load" for number in range(count)])
    except EmbedwireError as error:
        return note("load", f"the client with its default settings: {error}", "See the server's log.")
    info = client.server_info()
    in_flight, texts = info.concurrency or 1, min(info.batch_size or 5, 16)
    end = asyncio.get_running_loop().time() + FOR_LOAD
    seconds: list[float] = []
    failed: list[str] = []

    async def one(worker: int) -> None:
        for turn in range(ROUNDS):
            if asyncio.get_running_loop().time() > end:
                return
            heard = await ask.embed([f"load {worker} {turn} {number}" for number in range(texts)])
            failed.extend([heard.why] if heard.fault is not None else [])
            seconds.append(heard.seconds)

    begun = asyncio.get_running_loop().time()
    await asyncio.gather(*map(one, range(min(in_flight, 16))))
    took = asyncio.get_running_loop().time() - begun
    if failed:
        return note("load", f"{len(failed)} of {len(seconds)} requests: {failed[0]}", "Pass concurrency=2.")
    rate = len(seconds) * texts / took if took else 0.0
    sizes = f"{min(in_flight, 16)} in flight of {texts} text{'s' * (texts != 1)}"
    return ok("load", f"requests take {_percentiles(seconds)}, {sizes}: {rate:.0f} texts/s")


def _percentiles(seconds: list[float]) -> str:
    middle, most = np.percentile(seconds, [50, 95])
    return f"{_shown(middle)} (p50), {_shown(most)} (p95)"


def _shown(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2g} s"
