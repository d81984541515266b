"""What is learnt holds where it was learnt, for as long as it is true, and for nobody else."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from embedwire import (
    BatchLimits,
    EmbeddingClient,
    RateLimit,
    RequestError,
    RetryPolicy,
    SharedEmbeddingClient,
    Timeouts,
)
from embedwire.testing import Answer, EmbeddingServer, Gate, Request
from tests.helpers import finish, needs, needs_fork, numbered, right, simulated
from tests.server.certificates import certified, trusting
from tests.server.doors import own, shared
from tests.server.raw import Asked, RawServer, right_reply
from tests.server.scripts import Script


async def slowly(asked: Asked) -> bytes:
    """The right reply, a little late."""
    await asyncio.sleep(0.3)
    return right_reply(asked)


@simulated
class TestInFlight:
    """`concurrency` is the most that is in flight at a server, over all clients of a loop."""

    @pytest.mark.parametrize(
        "differ",
        [
            lambda n, server: {},
            lambda n, server: {"headers": {"X-Tenant": f"t{n}"}},
            lambda n, server: {"api_key": f"key-{n}"},
            lambda n, server: {"api_key": lambda: f"key-{n}"},
            lambda n, server: {"model": f"model-{n}"},
            lambda n, server: {"dimensions": 8 - n % 4},
            lambda n, server: {"timeout": 100 + n},
            lambda n, server: {"proxy": f"http://user:{n}@127.0.0.1:{server.port}"},
            lambda n, server: {"headers": {"X-Tenant": f"t{n}"}, "model": f"model-{n}", "timeout": 100 + n},
        ],
        ids=["nothing", "header", "key", "function", "model", "dimensions", "timeout", "proxy", "all"],
    )
    @pytest.mark.parametrize("concurrency", [1, 3])
    async def test_whatever_differs(
        self, concurrency: int, differ: Callable[[int, RawServer], dict[str, Any]]
    ) -> None:
        """Thirty clients of one server keep to their `concurrency` together, whatever else differs between them."""
        async with RawServer(slowly) as server, AsyncExitStack() as stack:
            clients = [
                own(server, concurrency=concurrency, **differ(n, server))  # type: ignore[arg-type]
                for n in range(30)
            ]
            for client in clients:
                await stack.enter_async_context(client)
            calls = [client.embed_query(text) for client, text in zip(clients, numbered(30), strict=True)]
            assert len(await asyncio.gather(*calls)) == 30
        assert server.peak == concurrency

    async def test_contexts_of_tls(self, authority: trustme.CA) -> None:
        """Nor do contexts of TLS, one for each client, add up."""
        async with RawServer(slowly, ssl=certified(authority)) as server, AsyncExitStack() as stack:
            clients = [own(server, concurrency=1, ssl=trusting(authority)) for _ in range(10)]  # type: ignore[arg-type]
            for client in clients:
                await stack.enter_async_context(client)
            await asyncio.gather(*(client.embed_query("hello") for client in clients))
        assert server.peak == 1

    @pytest.mark.parametrize("url", ["{}/", "{}/v1", "{}/v1/", "{}/v1/embeddings"])
    async def test_spellings_of_the_address(self, url: str) -> None:
        """Nor do spellings of one address."""
        async with (
            RawServer(slowly) as server,
            EmbeddingClient(server.url, model="m", concurrency=1) as one,
            EmbeddingClient(
                url.format(server.url).replace("http", "HTTP"), model="m", concurrency=1
            ) as other,
        ):
            await asyncio.gather(*(client.embed_query(text) for client in (one, other) for text in "abc"))
        assert server.peak == 1

    @pytest.mark.parametrize("leave", ["idle", "closed", "dropped"])
    async def test_the_smallest_of_those_with_work(self, leave: str) -> None:
        """The smallest `concurrency` counts while it has work, and is forgotten with it."""
        async with RawServer(slowly) as server:
            few = own(server, concurrency=2, headers={"X": "few"})  # type: ignore[arg-type]
            async with own(server, concurrency=6, batch_size=1) as many:  # type: ignore[arg-type]
                both = asyncio.gather(few.embed(numbered(12, "few")), many.embed(numbered(30)))
                await few.embed(numbered(12, "again"))
                await both
                if leave == "closed":
                    await few.close()
                elif leave == "dropped":
                    del few
                    gc.collect()
                server.peak = 0
                await many.embed(numbered(40, "alone"))
                assert server.peak == 6
            if leave == "idle":
                await few.close()

    async def test_a_smaller_number_holds_at_once(self) -> None:
        """While a client with `concurrency=1` has work, nobody has more than one in flight."""
        async with (
            RawServer(slowly) as server,
            own(server, concurrency=1, headers={"X": "1"}, batch_size=1) as few,  # type: ignore[arg-type]
            own(server, concurrency=8, batch_size=1) as many,  # type: ignore[arg-type]
        ):
            calls = [asyncio.ensure_future(few.embed(numbered(20, "few")))]
            await asyncio.sleep(0.1)
            calls.append(asyncio.ensure_future(many.embed(numbered(20, "many"))))
            await asyncio.sleep(5)
            assert not any(call.done() for call in calls)
            assert server.peak == 1
            await asyncio.gather(*calls)


@needs("langchain_core")
def test_thirty_adapters() -> None:
    """Thirty adapters with `concurrency=1` that differ in a header have one request in flight together."""
    from embedwire.langchain import EmbedwireEmbeddings

    async def main() -> int:
        met, gate = asyncio.Event(), asyncio.Event()

        async def once_open(asked: Asked) -> bytes:
            met.set()
            await gate.wait()
            return right_reply(asked)

        async with RawServer(once_open) as server, RawServer() as elsewhere:
            adapters = [
                EmbedwireEmbeddings(
                    base_url=server.url,
                    model="m",
                    encoding="float",
                    concurrency=1,
                    headers={"X-Tenant": f"{n}"},
                )
                for n in range(30)
            ]
            calls = [asyncio.ensure_future(adapter.aembed_query("hello")) for adapter in adapters]
            await met.wait()
            async with SharedEmbeddingClient(elsewhere.url, model="m", encoding="float") as other:
                for text in numbered(5):  # five ways there and back, begun later on the same loop
                    await other.aembed_query(text)
            gate.set()
            rows = await asyncio.gather(*calls)
            assert right(rows, ["hello"] * 30)
            return server.peak

    assert asyncio.run(main()) == 1


def props(slots: int, context: int = 512) -> Answer:
    """What a llama-server tells of itself."""
    return Answer(body={"total_slots": slots, "default_generation_settings": {"n_ctx": context}})


class TestRestart:
    """What a server told of itself is asked again after a restart."""

    @simulated
    @pytest.mark.parametrize(("before", "after"), [(64, 1), (64, 2), (1, 64)])
    @pytest.mark.parametrize("when", ["idle", "in a call", "while it loads"])
    async def test_with_other_slots(self, when: str, before: int, after: int) -> None:
        """A llama-server restarted with other slots gets as many requests as its new slots take."""
        slots = [before]
        async with (
            EmbeddingServer(
                latency=0.03,
                script=lambda request: props(slots[0], 64 * slots[0]) if request.path == "/props" else None,
            ) as server,
            own(server, batch_size=5) as client,
        ):
            texts = numbered(600, "before")
            assert right(await client.embed(texts), texts)
            assert client.server_info().slots == before
            texts = numbered(600, "on")
            call = asyncio.ensure_future(client.embed(texts))
            if when == "in a call":
                await server.wait_for(lambda: len(server.batches) > 40)
            else:
                assert right(await call, texts)
            slots[0] = after
            server.loading = when == "while it loads"
            await server.astop()
            await server.astart()
            if server.loading:
                asyncio.get_running_loop().call_later(5, setattr, server, "loading", False)
            for round_ in "ab":
                texts = numbered(600, round_)
                assert right(await client.embed(texts), texts)
            await call
            server.peak_in_flight = 0
            texts = numbered(600, "after")
            assert right(await client.embed(texts), texts)
            assert client.server_info().slots == after
            assert client.server_info().context == 64 * after
            few, many = 4, 8  # of five texts: as few as any server gets, or two texts for each slot
            assert server.peak_in_flight <= few if after <= 2 else server.peak_in_flight >= many

    async def test_with_other_software(self) -> None:
        """Another `Server` header on the same connection is another server, too: what the old one told is forgotten."""
        software = ["llama.cpp"]

        def script(request: Request) -> Answer | None:
            if request.path == "/props":
                return props(8)
            return Answer(headers={"Server": software[0]})

        async with EmbeddingServer(script=script) as server, own(server) as client:
            await client.embed(numbered(100, "before"))
            assert client.server_info().slots == 8
            software[0] = "another"
            await client.embed(numbered(100, "after"))
            info = client.server_info()
            assert (info.software, info.slots, info.context) == ("another", None, None)


def refuse_once(size: int, answer: Answer) -> Callable[[Request], Answer | None]:
    """A script that refuses the first request of so many texts."""
    left = [answer]
    return lambda request: left.pop() if left and request.embeds and len(request.texts) >= size else None


GLITCHES = {
    "400": Answer.error(400, "upstream connect error"),
    "422": Answer.error(422, "no"),
    "413": Answer(status=413, body=b"<html>"),
}


class TestCaps:
    """A cap that was only inferred is a suspicion."""

    @simulated
    @pytest.mark.parametrize("glitch", GLITCHES)
    @pytest.mark.parametrize("size", [2, 5])
    async def test_one_refusal_out_of_nowhere(self, size: int, glitch: str) -> None:
        """One stray refusal does not make requests small for the rest of the process."""
        async with (
            EmbeddingServer(
                latency=0.02, server_header=None, script=refuse_once(size, GLITCHES[glitch])
            ) as server,
            own(server, concurrency=4, max_retries=0) as client,
        ):
            texts = numbered(size, "few")
            assert right(await client.embed(texts), texts)
            assert (client.server_info().max_texts, client.server_info().max_chars) == (None, None)
            before = len(server.batches)
            texts = numbered(4000)
            assert right(await client.embed(texts), texts)
            assert len(server.batches) - before <= 300  # 52 where nothing was refused, 800 of five texts

    @pytest.mark.parametrize("glitch", ["400", "413"])
    @pytest.mark.parametrize("other", [{"model": "n"}, {"api_key": "key"}, {"dimensions": 4}])
    async def test_is_not_others(self, other: dict[str, Any], glitch: str, here: EmbeddingServer) -> None:
        """A cap that is real for one model, or one key, is none for another."""

        def script(request: Request) -> Answer | None:
            if not request.embeds or len(request.texts) <= 2:
                return None
            mine = request.json["model"] == "m" and "dimensions" not in request.json
            return GLITCHES[glitch] if mine and "authorization" not in request.headers else None

        here.script = script
        async with own(here, batch_size=100) as client, own(here, batch_size=100, **other) as another:
            texts = numbered(200)
            assert right(await client.embed(texts), texts)
            before = len(here.batches)
            assert right(await another.embed(texts), texts, tolerance=1)
            assert [len(batch) for batch in here.batches[before:]] == [100, 100]

    @pytest.mark.parametrize(
        "words", ["batch size {n} > maximum allowed batch size {most}", "no"], ids=["named", "inferred"]
    )
    async def test_that_is_raised(self, words: str, here: EmbeddingServer) -> None:
        """A cap on texts that is raised from 4 to 512 is found."""
        most = [4]

        def script(request: Request) -> Answer | None:
            count = len(request.texts) if request.embeds else 0
            return Answer.error(422, words.format(n=count, most=most[0])) if count > most[0] else None

        here.script = script
        async with own(here, batch_size=100, concurrency=2) as client:
            texts = numbered(100, "before")
            assert right(await client.embed(texts), texts)
            most[0] = 512
            texts = numbered(8000)
            assert right(await client.embed(texts), texts)
            assert max(map(len, here.batches[-10:])) > 64

    @pytest.mark.parametrize("status", [413, 400])
    async def test_on_characters_that_is_raised(self, status: int, here: EmbeddingServer) -> None:
        """A cap on the body's size that is raised is found, too."""
        most = [1000]

        def script(request: Request) -> Answer | None:
            large = request.embeds and len(request.body) > most[0]
            return Answer(status=status, body=b"too large") if large else None

        here.script = script
        texts = [f"{n:04} " + "x" * 95 for n in range(6000)]
        async with own(here, batch_size=BatchLimits(texts=100), concurrency=2) as client:
            assert right(await client.embed(texts[:200]), texts[:200])
            most[0] = 10**7
            assert right(await client.embed(texts[200:]), texts[200:])
            assert max(map(len, here.batches[-10:])) > 64


def first_minute(server: EmbeddingServer) -> list[Request]:
    """What a server got in the minute after its first request."""
    return [request for request in server.requests if request.at < server.requests[0].at + 60]


@simulated
class TestLimits:
    """A rate limit is one limit, however it is spelled."""

    @pytest.mark.parametrize(
        "others",
        [
            [{"rate_limit": RateLimit(requests=6)}, {"rate_limit": RateLimit(requests=6, texts=10**6)}],
            [
                {"rate_limit": RateLimit(requests=6, chars=10**6)},
                {"rate_limit": RateLimit(requests=6, chars=10**7)},
            ],
            [{"rate_limit": 6, "model": "n"}, {"rate_limit": 6, "dimensions": 4}],
        ],
    )
    async def test_of_requests(self, others: list[dict[str, Any]], here: EmbeddingServer) -> None:
        """Three clients of one visitor with a limit of 6 a minute send 6 requests in a minute together."""
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(own(here, **{"batch_size": 1, **arguments}))
                for arguments in ({"rate_limit": 6}, *others)
            ]
            await asyncio.gather(*(client.embed(numbered(6, n)) for n, client in enumerate(clients)))
        assert len(first_minute(here)) == 6

    @pytest.mark.parametrize(
        ("limit", "other"),
        [
            (RateLimit(texts=10), RateLimit(texts=10, requests=1000)),
            (RateLimit(chars=70), RateLimit(chars=70, texts=1000)),
        ],
    )
    async def test_of_texts_and_characters(
        self, limit: RateLimit, other: RateLimit, here: EmbeddingServer
    ) -> None:
        """A limit on texts or characters that is spelled in two ways is one limit, too."""
        async with own(here, rate_limit=limit) as one, own(here, rate_limit=other) as two:
            await asyncio.gather(one.embed(numbered(10, "aaaaa")), two.embed(numbered(10, "bbbbb")))
        assert sum(len(request.texts) for request in first_minute(here)) == 10

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"headers": {"X-Team": "a"}}, {"headers": {"x-team": "a"}}),
            ({"headers": {"X-A": "1", "X-B": "2"}}, {"headers": {"X-B": "2", "X-A": "1"}}),
            ({"api_key": "key"}, {}),
        ],
        ids=["case", "order", "environment"],
    )
    async def test_of_one_visitor(
        self,
        one: dict[str, Any],
        other: dict[str, Any],
        here: EmbeddingServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A visitor is who the server sees: the same headers and key, however they were passed, share a limit."""
        if "api_key" in one:
            monkeypatch.setenv("EMBEDWIRE_API_KEY", "key")
        spellings = 6, RateLimit(requests=6, texts=1000)
        async with (
            own(here, batch_size=1, rate_limit=spellings[0], **one) as a,
            own(here, batch_size=1, rate_limit=spellings[1], **other) as b,
        ):
            await asyncio.gather(a.embed(numbered(6, "a")), b.embed(numbered(6, "b")))
        assert len(first_minute(here)) == 6

    async def test_after_the_client(self, here: EmbeddingServer) -> None:
        """A limit outlives the client: a new one, spelled otherwise, starts no new minute."""
        for limit in (6, RateLimit(requests=6), RateLimit(requests=6, texts=100)):
            async with own(here, batch_size=1, rate_limit=limit) as client:
                await client.embed(numbered(3, str(limit)))
        assert len(first_minute(here)) == 6


@simulated
class TestRepeats:
    """One model's failures do not use up another's repeats."""

    @pytest.mark.parametrize(
        "other", [{"model": "n"}, {"api_key": "key"}, {"dimensions": 4}, {"headers": {"X": "y"}}]
    )
    @pytest.mark.parametrize("failure", [Answer.error(503, "no"), Answer.reset()], ids=["503", "reset"])
    async def test_are_counted_apart(
        self, failure: Answer, other: dict[str, Any], here: EmbeddingServer
    ) -> None:
        """A model that fails for long leaves the repeats of others alone."""
        failing = [True]

        def script(request: Request) -> Answer | None:
            if not request.embeds:
                return None
            mine = "dimensions" not in request.json and "x" not in request.headers
            if request.json["model"] == "m" and mine and "authorization" not in request.headers:
                return failure
            return failure if failing and failing.pop() else None

        here.script = script
        policy = RetryPolicy(attempts=3, base=0.1)
        async with own(here, max_retries=policy) as bad, own(here, max_retries=policy, **other) as good:
            for text in numbered(300):
                with pytest.raises(RequestError):
                    await bad.embed_query(text)
            assert right([await good.embed_query("text")], ["text"], tolerance=1)
        assert not failing


def test_forms_that_differ_in_a_timeout_leave_nothing(server: EmbeddingServer) -> None:
    """A call takes no more steps after 200 clients that differed in `timeout=` alone than before them."""
    count, tracing = 0, False

    def line(*_: object) -> object:
        nonlocal count
        count += 1
        return line

    def key() -> str:  # is called on the loop thread
        sys.settrace(line if tracing else None)  # type: ignore[arg-type]
        return "key"

    def steps(text: str) -> int:
        nonlocal count, tracing
        count, tracing = 0, True
        client.embed(numbered(10, text))
        tracing = False
        client.embed_query(text + " is over")
        return count

    with shared(server, api_key=key, batch_size=1, concurrency=20) as client, ExitStack() as stack:
        before = [steps(warm) for warm in "abc"][-1]
        for n in range(200):
            other = shared(server, api_key=key, timeout=Timeouts(total=100 + n))
            stack.enter_context(other).embed_query("text")
        assert steps("after") < 1.3 * before


@needs_fork
@pytest.mark.parametrize("question", ["/props", "/v1/models"])
def test_a_fork_while_a_question_is_asked(
    question: str, script: Script, server: EmbeddingServer, tmp_path: Path
) -> None:
    """A child forked while a question is asked asks it again, and gets its vectors."""
    gate, left, paths = Gate(), [1], lambda: [request.path for request in server.requests]

    def scripted(request: Request) -> Answer | None:
        return Answer.hold(gate) if request.path == question and left and left.pop() else None

    server.script = scripted
    process = script(
        f"""
        import time

        client = make(model={None if question == "/v1/models" else "test-model"!r})
        thread = threading.Thread(target=lambda: client.embed(texts("parent", 120)))
        thread.start()
        while not os.path.exists("fork"):
            time.sleep(0.01)
        child = os.fork()
        if not child:
            signal.alarm(15)
            ok = right(client.embed(texts("child", 120)), texts("child", 120))
            ok = ok and right(client.embed(texts("again", 120)), texts("again", 120))
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        open("forked", "w").close()
        thread.join()
        print("done")
        """
    )
    server.wait(lambda: paths().count(question) == 1, timeout=20)
    (tmp_path / "fork").touch()
    server.wait(lambda: paths().count(question) == 2, timeout=20)
    gate.open()
    assert finish(process, timeout=25) == "done\n"
