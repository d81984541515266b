"""`cache=`: a text that was embedded before costs no request, and no text ever gets another vector for it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedwire import (
    BadReply,
    ByKind,
    DeadlineExceeded,
    EmbeddingClient,
    InputError,
    Prompts,
    RequestError,
    SharedEmbeddingClient,
    TextRefused,
    Timeouts,
    UsageError,
    VectorCache,
)
from embedwire._clients import cache as private
from embedwire._clients import cache_connection as connection
from embedwire._clients.cache_file import CacheFile
from embedwire.testing import Answer, EmbeddingServer, Gate, Request
from tests.helpers import copies, finish, needs_fork, numbered, right
from tests.server.doors import Doors, Open, own, shared
from tests.server.fleet import OTHER, client_of, fleet
from tests.server.raw import RawServer
from tests.server.scripts import Script
from tests.server.test_models import Exchangeable, named, of

TEXTS = numbered(50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a cache may be."""
    return tmp_path / "vectors.sqlite"


@pytest.fixture(autouse=True)
def not_told_yet() -> Iterator[None]:
    """What is told once in a process is told once in each test."""
    connection._told.clear()
    yield
    connection._told.clear()


def texts_of(server: EmbeddingServer) -> list[str]:
    """All texts that a server was sent."""
    return [text for batch in server.batches for text in batch]


def size_of(path: Path) -> int:
    """Bytes of a file."""
    return path.stat().st_size


def with_content(path: Path, content: bytes | None = None) -> bytes:
    """What is in a file, after something was written there."""
    if content is not None:
        path.write_bytes(content)
    return path.read_bytes()


def rows(path: Path, question: str) -> list[Any]:
    """What a cache's file answers."""
    with closing(sqlite3.connect(path)) as file:
        return file.execute(question).fetchall()


def change(path: Path, command: str, *values: object) -> None:
    """Changes a cache's file from outside."""
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(command, values)


class TestHits:
    """What was embedded before is taken from the cache."""

    async def test_by_each_door(self, open_doors: Open, server: EmbeddingServer, path: Path) -> None:
        """Lists, arrays, queries and streams come from the cache the second time, equal to the bit, also elsewhere."""
        first, second = open_doors(cache=path), open_doors(cache=str(path))

        async def everything(doors: Doors) -> Any:
            pieces = await doors.pieces(TEXTS)
            return (
                await doors.embed(TEXTS),
                (await doors.embed_array(TEXTS[:7])).tobytes(),
                await doors.embed_query("a query"),
                np.concatenate([vectors for _, vectors in pieces]).tobytes(),
            )

        before = await everything(first)
        assert sorted(texts_of(server)) == sorted([*TEXTS, "a query"])
        assert right(before[0], TEXTS)
        sent = len(server.requests)
        assert await everything(second) == before
        assert len(server.requests) == sent
        assert first.client.usage().cached == 57
        usage = second.client.usage()
        assert (usage.cached, usage.texts, usage.requests, usage.characters) == (108, 0, 0, 0)

    async def test_only_the_rest_is_sent(self, here: EmbeddingServer, path: Path) -> None:
        """Of a call with old and new texts the new ones travel, once each, and each vector stands in its place."""
        async with own(here, cache=path) as client:
            await client.embed(["text 1", "text 3"])
            texts = ["text 3", "new", "text 1", "new", "text 3", "newer"]
            assert right(await client.embed(texts), texts)
            assert sorted(texts_of(here)) == ["new", "newer", "text 1", "text 3"]
            usage = client.usage()
            assert (usage.cached, usage.texts) == (3, 5)
            assert right(await client.embed(texts), texts)
            assert client.usage().cached == 9

    async def test_arrays_are_the_callers(self, here: EmbeddingServer, path: Path) -> None:
        """An array from the cache is float32 in C order, may be written to, and changes nothing elsewhere."""
        async with own(here, cache=path) as client:
            (await client.embed_array(TEXTS))[:] = 7
            array = await client.embed_array(TEXTS)
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            assert array.flags.writeable
            assert right(array.tolist(), TEXTS)
            array[:] = 8
            assert right(await client.embed(TEXTS), TEXTS)

    async def test_nothing_to_embed(self, here: EmbeddingServer, path: Path) -> None:
        """An empty list costs nothing and is empty."""
        async with own(here, cache=path) as client:
            assert await client.embed([]) == []
            await client.embed(["a"])
            assert (await client.embed_array([])).shape == (0, 8)

    @pytest.mark.parametrize("text", ["", " ", "\0", "서울", "🙂", "a\u0301", "x" * 300_000], ids=repr)
    async def test_any_text(self, text: str, here: EmbeddingServer, path: Path) -> None:
        """Blank texts, NUL, Korean, emoji and very long ones are known again, and are like no other."""
        async with own(here, cache=path) as client:
            for texts in [[text], [text, text + " "], [text + " ", text]]:
                assert right(await client.embed(texts), texts)
            assert sorted(texts_of(here)) == sorted([text, text + " "])

    async def test_a_million_in_one_call_leave_room_for_others(
        self, here: EmbeddingServer, path: Path
    ) -> None:
        """Many texts are looked for a slice at a time; all of them are found."""
        texts = numbered(5000)
        async with own(here, cache=path) as client:
            assert right(await client.embed(texts), texts)
            sent = len(here.requests)
            many = asyncio.ensure_future(client.embed(texts))
            assert right([await client.embed_query("text 1")], ["text 1"])
            assert right(await many, texts)
            assert texts_of(here).count("text 1") == 2  # once as a query
            assert len(here.requests) == sent + 1

    async def test_without_the_server(self, path: Path) -> None:
        """Where the user names the model, the server need not be there for what the cache has."""
        async with EmbeddingServer() as server, own(server, cache=path) as client:
            await client.embed(TEXTS)
        async with own(server, cache=path, timeout=Timeouts(restart=0)) as client:
            assert right(await client.embed(TEXTS), TEXTS)
            with pytest.raises(RequestError) as caught:
                await client.embed([*TEXTS, "new"])
        assert caught.value.index == 50
        assert caught.value.completed is not None
        assert caught.value.completed.indexes == list(range(50))
        assert right(caught.value.completed.vectors.tolist(), TEXTS)

    async def test_ready_means_that_it_embeds(self, here: EmbeddingServer, path: Path) -> None:
        """`wait_ready` asks the server, whatever the cache has."""
        async with own(here, cache=path) as client:
            await client.embed(["ready"])
            await client.wait_ready()
            assert texts_of(here).count("ready") > 1


class TestWhatDecides:
    """A vector is found for the same text, model, kind, prompt and fields alone."""

    @pytest.mark.parametrize(
        "other",
        [
            {"model": "another"},
            {"dimensions": 4},
            {"normalize": True},
            {"prompts": "e5"},
            {"extra_body": {"truncate": True}},
            {"extra_body": ByKind(query={"input_type": "query"}, document={"input_type": "document"})},
            {"too_long": "truncate"},
            {"too_long": "average"},
        ],
        ids=str,
    )
    async def test_another_argument(self, other: dict[str, Any], here: EmbeddingServer, path: Path) -> None:
        """Whatever decides a vector has vectors of its own; so has each kind of text."""
        for arguments in ({}, other):
            async with own(here, cache=path, **arguments) as client:
                before = len(texts_of(here))
                vectors = await client.embed_array(["a"]), await client.embed_array(["a"], "query")
                assert len(texts_of(here)) == before + 2
                again = await client.embed_array(["a"]), await client.embed_array(["a"], "query")
                assert len(texts_of(here)) == before + 2
                assert [one.tobytes() for one in again] == [one.tobytes() for one in vectors]

    @pytest.mark.parametrize(
        "other",
        [
            {"batch_size": 1},
            {"encoding": "base64"},
            {"headers": {"X": "1"}},
            {"deadline": 9},
            {"api_key": "k"},
        ],
        ids=str,
    )
    async def test_the_same_vectors(self, other: dict[str, Any], here: EmbeddingServer, path: Path) -> None:
        """How vectors travel does not matter."""
        async with own(here, cache=path) as client:
            await client.embed(TEXTS)
        sent = len(here.requests)
        async with own(here, cache=path, **other) as client:
            assert right(await client.embed(TEXTS), TEXTS)
        assert len(here.requests) == sent

    async def test_prompt_and_text_do_not_run_together(self, here: EmbeddingServer, path: Path) -> None:
        """A prompt and a text that make up the same are not the same."""
        for prompt, text in [("a", "bc"), ("ab", "c"), ("", "abc")]:
            async with own(here, cache=path, prompts=Prompts(document=prompt)) as client:
                await client.embed([text])
        assert texts_of(here) == ["abc"] * 3

    async def test_no_text_lies_in_the_file(self, here: EmbeddingServer, path: Path) -> None:
        """Neither a text nor a key can be read out of the file."""
        async with own(here, cache=path, api_key="sk-secret-key") as client:
            await client.embed(["a text that nobody should see"])
        content = b"".join(one.read_bytes() for one in path.parent.glob("vectors*"))
        assert content
        assert b"nobody" not in content
        assert b"secret" not in content


class TestTheModel:
    """A changed model never gets an old one's vectors, nor does a call get vectors of two."""

    async def test_that_has_no_name_is_asked_for(self, path: Path) -> None:
        """Without `model=` the server is asked at each call, and another one's vectors are never used."""
        handle = Exchangeable()
        async with RawServer(handle) as server, EmbeddingClient(server.url, cache=path) as client:
            for model in ("one", "two", "one"):
                handle.serves = model
                for _ in range(2):
                    assert right(await client.embed(TEXTS), of(model, TEXTS))
                    assert right([await client.embed_query("q")], of(model, ["q"]))
                assert client.usage().cached == {"one": 51, "two": 102}[model] or model == "one"
            assert client.usage().cached == 51 + 51 + 102
            assert (
                sum(len(asked.texts) for asked in server.asked if asked.embeds) == 102 + 2
            )  # and two in base64

    async def test_of_another_process_and_a_server_that_was_started_again(self, path: Path) -> None:
        """A new client of a server that serves another model by now does not believe what is there."""
        handle = Exchangeable()
        async with RawServer(handle) as server:
            for model in ("one", "two", "two", "one"):
                handle.serves = model
                server.hang_up()
                private_client = EmbeddingClient(server.url, cache=path, encoding="float")
                async with private_client as client:
                    assert right(await client.embed(TEXTS), of(model, TEXTS))
            assert sum(len(asked.texts) for asked in server.asked if asked.embeds) == 100

    async def test_is_exchanged_between_question_and_reply(self, path: Path) -> None:
        """A call that found vectors of the old model, and whose rest is of the new one, is sent whole."""
        handle = Exchangeable()
        async with (
            RawServer(handle) as server,
            EmbeddingClient(server.url, cache=path, encoding="float") as client,
        ):
            await client.embed(TEXTS)
            real = client._engine._caching._store.look  # type: ignore[union-attr]

            async def look(*arguments: Any) -> Any:
                found = await real(*arguments)
                handle.serves = "two"
                server.hang_up()
                return found

            client._engine._caching._store.look = look  # type: ignore[union-attr,method-assign]
            texts = [*TEXTS, "new"]
            assert right(await client.embed(texts), of("two", texts))
            del client._engine._caching._store.look  # type: ignore[union-attr]
            assert right(await client.embed(texts), of("two", texts))
            assert client.usage().cached == 51

    async def test_behind_an_alias(self, server: EmbeddingServer, path: Path) -> None:
        """Where replies name another model by now, what the cache has under the user's name is not used any more."""

        def answer(name: str, other: bool) -> None:
            def script(request: Request) -> Answer | None:
                if not request.embeds:
                    return None
                return Answer(body=lambda reply: {**(OTHER.body(reply) if other else reply), "model": name})  # type: ignore[operator]

            server.script = script

        answer("bge-m3", other=False)
        with shared(server, model="alias", cache=path) as client:
            assert right(client.embed(TEXTS), TEXTS)
        answer("e5", other=True)
        with shared(server, model="alias", cache=path, api_key="another visitor") as client:
            vectors = client.embed([*TEXTS, "new"])
            turned = [row[-1:] + row[:-1] for row in vectors]
            assert right(turned, [*TEXTS, "new"])
            assert client.embed([*TEXTS, "new"]) == vectors
            assert client.usage().cached == 51
        answer("bge-m3", other=False)
        with shared(server, model="alias", cache=path, api_key="a third one") as client:
            assert right(client.embed(["newest", *TEXTS]), ["newest", *TEXTS])

    async def test_that_a_reply_just_named_counts(self, here: EmbeddingServer, path: Path) -> None:
        """Once a call failed as the model was exchanged, nothing of the old one is taken from the cache."""
        here.script = lambda request: named("old") if request.embeds else None
        async with own(here, cache=path, batch_size=100) as client:
            assert right(await client.embed(TEXTS), TEXTS)
            here.script = lambda request: named("new") if request.embeds else None
            with pytest.raises(BadReply, match="another model") as caught:
                await client.embed([*TEXTS, "x"])
            assert caught.value.completed is not None
            assert caught.value.completed.indexes == []
            before = len(texts_of(here))
            assert right(await client.embed(TEXTS), TEXTS)
            assert len(texts_of(here)) == before + 50

    async def test_of_another_width(self, path: Path) -> None:
        """Vectors of another width than those that come are not used, whatever name the replies repeat."""
        async with EmbeddingServer(dimensions=8) as narrow, own(narrow, cache=path) as client:
            await client.embed(TEXTS)
        async with EmbeddingServer(dimensions=12) as wide, own(wide, cache=path) as client:
            vectors = await client.embed_array([*TEXTS, "new"])
            assert vectors.shape == (51, 12)
            assert right(vectors.tolist(), [*TEXTS, "new"])
            assert (await client.embed_array(TEXTS[:5])).shape == (5, 12)
            assert client.usage().cached == 5

    async def test_a_server_that_does_not_tell(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Where nothing tells which model is served, the cache is not used, which is told once."""

        def script(request: Request) -> Answer | None:
            return None if request.embeds else Answer.error(404, "no list")

        async with (
            EmbeddingServer(script=script) as server,
            EmbeddingClient(server.url, cache=path) as client,
        ):
            for _ in range(3):
                assert right(await client.embed(["a"]), ["a"])
            assert client.usage().cached == 0
        assert caplog.text.count("pass model=") == 1

    async def test_several_servers(self, path: Path) -> None:
        """Several servers of one model share what the cache has, with a name and without one."""
        async with fleet(2) as servers:
            for arguments in ({"model": "test-model"}, {"model": None}):
                async with client_of(servers, cache=path, **arguments) as client:
                    assert right(await client.embed(TEXTS), TEXTS)
            assert client.usage().cached == 50
            # One of them has another model by now, and says so.
            listed = {"object": "list", "data": [{"id": "other"}]}

            def other(request: Request) -> Answer | None:
                if request.place.endswith("/models"):
                    return Answer(body=listed)
                return OTHER if request.embeds else None

            for server in servers:
                server.script = other
            async with client_of(servers, cache=path, model=None) as client:
                vectors = await client.embed(TEXTS)
                assert right([row[-1:] + row[:-1] for row in vectors], TEXTS)
                assert client.usage().cached == 0

    async def test_one_of_several_servers_that_hangs(self, path: Path) -> None:
        """Where one of several servers takes questions and never answers, calls go on within their deadline."""
        async with fleet(2) as servers, client_of(servers, cache=path, model=None, deadline=4.0) as client:
            servers[1].script = lambda request: Answer.hang()
            for _ in range(3):
                assert right(await client.embed(["a", "b"]), ["a", "b"])
            assert client.usage().cached == 4

    async def test_several_servers_that_differ(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Where servers list different models, nothing is taken or kept without a name."""
        async with (
            EmbeddingServer(model="q8") as one,
            EmbeddingServer(model="f16") as two,
            client_of([one, two], cache=path, model=None, same_model=0.98) as client,
        ):
            for _ in range(2):
                assert right(await client.embed(TEXTS), TEXTS)
            assert client.usage().cached == 0
        assert caplog.text.count("pass model=") == 1

    async def test_the_question_fails(self, path: Path) -> None:
        """Where the server cannot say which model it serves, the call fails as it would without a cache."""
        async with (
            EmbeddingServer(api_key="right") as server,
            EmbeddingClient(server.url, cache=path, api_key="wrong") as client,
        ):
            with pytest.raises(RequestError, match="GET /models") as caught:
                await client.embed(TEXTS)
        assert caught.value.completed is not None
        assert caught.value.completed.indexes == []


class TestErrors:
    """Indexes, and what was done, are those of the caller's list."""

    async def test_of_one_text(self, here: EmbeddingServer, path: Path) -> None:
        """The text at fault is named by its index in the whole list; hits are among what was done, and all is kept."""
        here.script = lambda request: (
            Answer.too_large(600, 512) if request.embeds and "long" in request.texts else None
        )
        async with own(here, cache=path) as client:
            await client.embed(["a", "c"])
            texts = ["a", "b", "c", "long", "d", "a"]
            for _ in range(2):
                with pytest.raises(TextRefused, match=r"texts\[3\] of 6") as caught:
                    await client.embed(texts)
                assert caught.value.index == 3
                assert [*caught.value.failures] == [3]
                assert caught.value.completed is not None
                assert caught.value.completed.indexes == [0, 1, 2, 4, 5]
                assert right(caught.value.completed.vectors.tolist(), ["a", "b", "c", "d", "a"])
                assert texts_of(here).count("a") == 1
                assert texts_of(here).count("d") == 2  # with the text at fault, and without
            assert client.usage().cached == 3 + 5

    async def test_in_a_stream(self, open_doors: Open, server: EmbeddingServer, path: Path) -> None:
        """A stream skips the text at fault, by its index, and has every other one in its place."""
        server.script = lambda request: (
            Answer.too_large(600, 512) if request.embeds and "text 13" in request.texts else None
        )
        doors = open_doors(cache=path, batch_size=5)
        await doors.embed([text for text in TEXTS if not text.endswith("3")])
        for _ in range(2):
            pieces = await doors.pieces(TEXTS, on_error="skip")
            got = {start + at: row for start, vectors in pieces for at, row in enumerate(vectors.tolist())}
            assert sorted(got) == [index for index in range(50) if index != 13]
            assert right([got[index] for index in sorted(got)], [text for text in TEXTS if text != "text 13"])

    @pytest.mark.parametrize("how", ["truncate", "average"])
    async def test_long_texts(self, how: Any, here: EmbeddingServer, path: Path) -> None:
        """A text that is cut, or embedded in parts, is found as it was handed out, also between others."""
        here.script = lambda request: (
            Answer.too_large(600, 512)
            if request.embeds and any(len(text) > 100 for text in request.texts)
            else None
        )
        texts = ["a", "word " * 60, "b", "word " * 70, "a"]
        async with own(here, cache=path, too_long=how) as client:
            await client.embed(["a", "word " * 70])
            first = await client.embed_array(texts)
            sent = len(here.requests)
            assert (await client.embed_array(texts)).tobytes() == first.tobytes()
            assert len(here.requests) == sent
            assert right(first[[0, 2, 4]].tolist(), ["a", "b", "a"])

    async def test_a_deadline(self, here: EmbeddingServer, path: Path) -> None:
        """What the cache had is among what was done when the deadline passes."""
        async with own(here, cache=path) as client:
            await client.embed(TEXTS)
        async with own(here, cache=path, deadline=0.5) as client:
            with here.hold(), pytest.raises(DeadlineExceeded) as caught:
                await client.embed(["new", *TEXTS])
        assert caught.value.index == 0
        assert caught.value.completed is not None
        assert caught.value.completed.indexes == list(range(1, 51))

    async def test_a_cancelled_call(self, here: EmbeddingServer, path: Path) -> None:
        """What nobody waits for any more is not sent; later calls work."""
        async with own(here, cache=path, concurrency=1) as client:
            with here.hold():
                first = asyncio.ensure_future(client.embed(["held"]))
                await here.wait_for(lambda: here.in_flight == 1)
                call = asyncio.ensure_future(client.embed(TEXTS))
                await asyncio.sleep(0.05)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            await first
            assert texts_of(here) == ["held"]
            assert right(await client.embed(TEXTS), TEXTS)

    async def test_a_client_that_is_closed_meanwhile(self, here: EmbeddingServer, path: Path) -> None:
        """Calls under way end with `UsageError`, where they wait for the server's model, too."""
        gate = Gate()
        for model in ("m", None):
            here.script = lambda request: None if request.embeds else Answer(gate=gate)
            client = own(here, cache=path, model=model)
            with here.hold():
                call = asyncio.ensure_future(client.embed(["x"]))
                await here.wait_for(
                    lambda: any(not request.embeds for request in here.requests) or here.in_flight > 0
                )
                await client.close()
            with pytest.raises(UsageError, match="closed"):
                await call
            here.requests.clear()


class TestTheFile:
    """A file that cannot be used harms no call, and is told of once."""

    async def _works(
        self, here: EmbeddingServer, path: Path, caplog: pytest.LogCaptureFixture, *said: str
    ) -> None:
        async with own(here, cache=path) as client:
            for _ in range(3):
                assert right(await client.embed(TEXTS), TEXTS)
                assert right([await client.embed_query("q")], ["q"])
        for words in said:
            assert caplog.text.count(words) == 1, caplog.text
        assert "text 1" not in caplog.text

    async def test_is_no_database(
        self, here: EmbeddingServer, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file of something else is left as it is."""
        before = with_content(path, b"something else, " * 1000)
        await self._works(here, path, caplog, "cannot be used")
        assert with_content(path) == before

    async def test_is_another_programs(
        self, here: EmbeddingServer, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A database of another program is left as it is."""
        change(path, "CREATE TABLE theirs (x)")
        before = with_content(path)
        await self._works(here, path, caplog, "cannot be used", "another program's database")
        assert with_content(path) == before

    async def test_is_of_another_version(
        self, here: EmbeddingServer, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A cache of a later version is left as it is."""
        async with own(here, cache=path) as client:
            await client.embed(["a"])
        change(path, "PRAGMA user_version = 99")
        await self._works(here, path, caplog, "another version of embedwire (99")

    async def test_is_damaged(
        self, here: EmbeddingServer, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A damaged file is told of, and vectors come from the server."""
        async with own(here, cache=path) as client:
            await client.embed(TEXTS)
        content = with_content(path)
        with_content(path, content[:4096] + os.urandom(len(content) - 4096))
        await self._works(here, path, caplog, "cannot be used")

    async def test_is_locked(
        self,
        here: EmbeddingServer,
        path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """While another program has the file for itself, calls go on without."""
        monkeypatch.setattr(private, "READ", 0.1)
        monkeypatch.setattr(private, "WRITE", 0.1)
        private._stores.clear()
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("PRAGMA locking_mode = EXCLUSIVE")
            file.execute("BEGIN EXCLUSIVE")
            await self._works(here, path, caplog, "cannot be used", "database is locked")

    async def test_is_locked_for_longer_than_a_call_may_take(self, here: EmbeddingServer, path: Path) -> None:
        """A lock that is waited for leaves a call the time that it takes without a cache."""
        async with own(here, cache=path) as client:
            await client.embed(["a"])
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("PRAGMA locking_mode = EXCLUSIVE")
            file.execute("BEGIN EXCLUSIVE")
            async with own(here, cache=path, deadline=0.8) as client:
                assert right(await client.embed(["b"]), ["b"])

    async def test_folder_is_gone(
        self, here: EmbeddingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A folder that was deleted after the client was made harms nothing."""
        folder = tmp_path / "folder"
        folder.mkdir()
        cache = VectorCache(folder / "c")
        folder.rmdir()
        await self._works(here, cache, caplog, "cannot be used")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "vector", [b"", b"\0" * 4, b"\0" * 33, np.full(8, np.nan, "<f4").tobytes(), "text", None, 7], ids=repr
    )
    async def test_holds_a_wrong_vector(self, vector: object, here: EmbeddingServer, path: Path) -> None:
        """A vector of the wrong length, or with NaN in it, is none, and is replaced."""
        async with own(here, cache=path) as client:
            await client.embed(TEXTS)
        change(path, "CREATE TABLE other (id INTEGER PRIMARY KEY, vector)")
        change(path, "INSERT INTO other SELECT id, ? FROM vectors", vector)
        change(path, "DROP TABLE vectors")
        change(path, "ALTER TABLE other RENAME TO vectors")
        async with own(here, cache=path) as client:
            for cached in (0, 50):
                assert right(await client.embed(TEXTS), TEXTS)
                assert client.usage().cached == cached

    @pytest.mark.parametrize("width", [-1, 0, 10**12], ids=str)
    async def test_tells_a_wrong_width(self, width: int, here: EmbeddingServer, path: Path) -> None:
        """A width that no vector has is none."""
        async with own(here, cache=path) as client:
            await client.embed(TEXTS)
        change(path, "UPDATE models SET width = ?", width)
        async with own(here, cache=path) as client:
            for cached in (0, 50):
                assert right(await client.embed(TEXTS), TEXTS)
                assert client.usage().cached == cached

    async def test_is_one_at_rest(self, here: EmbeddingServer, path: Path) -> None:
        """Once the last client is closed, there is one file, and no connection to it."""
        async with own(here, cache=path) as client, own(here, cache=path) as other:
            await asyncio.gather(client.embed(TEXTS), other.embed(TEXTS))
        assert [one.name for one in path.parent.iterdir()] == [path.name]


class TestSize:
    """The file is bounded, and what was not used for longest goes."""

    @pytest.mark.parametrize(("most", "dimensions"), [(2**16, 8), (2**20, 384), (2**20, 1024), (2**25, 1024)])
    async def test_is_kept(self, most: int, dimensions: int, here: EmbeddingServer, path: Path) -> None:
        """However much comes, the file stays below it, little lies beside it, and a good part of it is used."""
        texts = numbered(4 * most // (4 * dimensions + 200))[:12_000]
        async with EmbeddingServer(dimensions=dimensions) as server:
            async with own(server, cache=VectorCache(path, max_bytes=most), encoding="base64") as client:
                for start in range(0, len(texts), 500):
                    await client.embed_array(texts[start : start + 500])
                    assert size_of(path) <= most
                    assert sum(map(size_of, path.parent.iterdir())) <= most + 2**23
            async with own(server, cache=VectorCache(path, max_bytes=most)) as client:
                last = texts[-(most // (4 * dimensions + 200)) // 4 :]
                await client.embed_array(last)
                assert client.usage().cached == len(last)
        assert most / 2 < size_of(path) <= most

    async def test_a_smaller_one(self, here: EmbeddingServer, path: Path) -> None:
        """With a smaller limit than before the file shrinks while it is written to."""
        async with EmbeddingServer(dimensions=256) as server:
            async with own(server, cache=VectorCache(path, max_bytes=2**23)) as client:
                await client.embed_array(numbered(4000))
            assert size_of(path) > 2**21
            async with own(server, cache=VectorCache(path, max_bytes=2**20)) as client:
                for number in range(30):
                    await client.embed_array(numbered(20, number))
        assert size_of(path) <= 2**20

    async def test_what_was_used_stays(self, here: EmbeddingServer, path: Path) -> None:
        """A vector that is taken again and again outlives those that came after it."""
        async with (
            EmbeddingServer(dimensions=384) as server,
            own(server, cache=VectorCache(path, max_bytes=2**20)) as client,
        ):
            await client.embed_array(["kept"])
            for number in range(20):
                await client.embed_array(numbered(100, number))
                await client.embed_array(["kept"])
            await client.embed_array(["0 0"])
        assert texts_of(server).count("kept") == 1
        assert texts_of(server).count("0 0") == 2

    @pytest.mark.parametrize(
        ("wide", "again"), [(400, 20), (8192, 0)], ids=["what was there", "smaller ones"]
    )
    def test_no_two_share_a_place(self, wide: int, again: int, path: Path) -> None:
        """In a full file each key has its own vector, where the oldest are put in again, or all of them must go."""
        file = CacheFile(VectorCache(path, max_bytes=2**16), 1.0)
        old = [b"%d" % number for number in range(2**16 // wide)]
        for key in old:
            file.write({}, {key: os.urandom(wide)}, [])
        left = [key for key in old if file.find([key])]
        new = {key: os.urandom(256) for key in [*left[:again], *(b"new %d" % number for number in range(20))]}
        file.write({}, new, [])
        found = file.find(list(new))
        file.close()
        assert found == {key: new[key] for key in found}
        assert len(found) > 10


class TestProcesses:
    """Several processes, threads and forks have one cache."""

    def test_at_once(self, server: EmbeddingServer, path: Path, script: Script) -> None:
        """Processes that write and read at once get right vectors, and afterwards all of them are there."""
        code = f"""
            import concurrent.futures
            def work(number):
                with make(cache={str(path)!r}) as client:
                    for round_ in range(4):
                        some = texts(round_ * 7 + number % 3, 40)
                        assert right(client.embed(some), some)
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                list(pool.map(work, range(4)))
        """
        started = [script(code) for _ in range(3)]
        for process in started:
            finish(process)
        sent = len(server.requests)
        with shared(server, model="test-model", cache=path) as client:
            for number in range(3):
                for round_ in range(4):
                    some = numbered(40, round_ * 7 + number)
                    assert right(client.embed(some), some)
        assert len(server.requests) == sent
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]

    def test_a_script_that_just_ends(self, server: EmbeddingServer, path: Path, script: Script) -> None:
        """What a process brought is in the file when it ends, closed or not, and nothing is said about it."""
        code = f"""
            client = make(cache={str(path)!r})
            assert right(client.embed(texts("text")), texts("text"))
            print(client.usage().cached)
        """
        assert finish(script(code)) == "0\n"
        assert finish(script(code)) == "60\n"

    def test_a_loop_that_just_ends(self, server: EmbeddingServer, path: Path, script: Script) -> None:
        """Nor is anything lost, or said, where an `EmbeddingClient` is dropped with its loop."""
        code = f"""
            async def main():
                client = make(EmbeddingClient, cache={str(path)!r})
                assert right(await client.embed(texts("text")), texts("text"))
                print(client.usage().cached)
            asyncio.run(main())
            gc.collect()
        """
        assert finish(script(code)) == "0\n"
        assert finish(script(code)) == "60\n"

    @needs_fork
    def test_a_fork(self, server: EmbeddingServer, path: Path, script: Script) -> None:
        """Parent and children go on with the cache, and no connection is open in both."""
        code = f"""
            client = make(cache={str(path)!r})
            assert right(client.embed(texts("before")), texts("before"))
            stop = threading.Event()
            def busy():
                number = 0
                while not stop.is_set():
                    number += 1
                    some = texts(f"busy {{number % 50}}", 20)
                    assert right(client.embed(some), some)
            thread = threading.Thread(target=busy)
            thread.start()
            children = []
            for child in range(8):
                if not (pid := os.fork()):
                    link = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd")
                            if os.path.exists(f"/proc/self/fd/{{fd}}")] if os.path.isdir("/proc/self/fd") else []
                    assert not any({str(path)!r} in one for one in link), link
                    cached = client.usage().cached
                    assert right(client.embed(texts("before")), texts("before"))
                    assert client.usage().cached == cached + 60
                    for _ in range(3):
                        some = texts(f"child {{child % 4}}", 30)
                        assert right(client.embed(some), some)
                    client.close()
                    os._exit(0)
                children.append(pid)
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
            assert right(client.embed(texts("before")), texts("before"))
            stop.set()
            thread.join()
            client.close()
            print(codes)
        """
        assert finish(script(code)) == f"{[0] * 8}\n"
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]

    @pytest.mark.parametrize("how", ["spawn", pytest.param("fork", marks=needs_fork)])
    def test_a_process_of_multiprocessing(
        self, how: str, server: EmbeddingServer, path: Path, script: Script
    ) -> None:
        """What such a process brought just before its end, without `atexit`, is there too."""
        code = f"""
            import multiprocessing
            def work(number):
                client = make(cache={str(path)!r})
                assert right(client.embed(texts(number, 3)), texts(number, 3))
                print(client.usage().cached, flush=True)
            if __name__ == "__main__":
                context = multiprocessing.get_context({how!r})
                for number in (1, 2, 1, 2):
                    process = context.Process(target=work, args=(number,))
                    process.start()
                    process.join()
                    assert process.exitcode == 0
        """
        assert finish(script(code)) == "0\n0\n3\n3\n"

    @pytest.mark.slow
    def test_a_kill_in_the_middle(self, server: EmbeddingServer, path: Path, script: Script) -> None:
        """A process that is killed while it writes leaves a file that the next one goes on with."""
        code = f"""
            client = make(cache={str(path)!r})
            print("begun", flush=True)
            for number in range(10**6):
                client.embed(texts(number, 200))
        """
        for round_ in range(4):
            process = script(code)
            assert process.stdout is not None
            process.stdout.readline()
            before = len(server.batches)
            server.wait(lambda: len(server.batches) > before + 20 + 7 * round_)  # noqa: B023
            process.kill()
            process.wait()
            assert rows(path, "PRAGMA integrity_check") == [("ok",)]
            with shared(server, model="test-model", cache=path) as client:
                some = numbered(200, round_)
                assert right(client.embed(some), some)
        assert rows(path, "SELECT count(*) FROM entries")[0][0] > 200

    @copies
    async def test_a_second_one(self, again: Any, server: EmbeddingServer, path: Path) -> None:
        """A pickle or a copy of a client has the cache, and counts for itself."""
        with shared(server, cache=path) as client:
            client.embed(TEXTS)
            with again(client) as twin:
                assert right(twin.embed(TEXTS), TEXTS)
                assert (twin.usage().cached, client.usage().cached) == (50, 0)


class TestArguments:
    """A wrong argument fails when the client is made."""

    def test_a_folder(self, tmp_path: Path) -> None:
        """A folder is no file."""
        with pytest.raises(InputError, match="is a folder; pass a file in it"):
            EmbeddingClient("http://x", cache=tmp_path)

    def test_no_folder(self, tmp_path: Path) -> None:
        """The folder must be there."""
        with pytest.raises(InputError, match="there is no folder"):
            SharedEmbeddingClient("http://x", cache=tmp_path / "no" / "c")

    @pytest.mark.parametrize("wrong", [True, 7, b"c", "", ["c"], ":memory:", "a\0b", "a\ud800"], ids=repr)
    def test_no_path(self, wrong: Any) -> None:
        """Anything else than a path is refused by name, and not shown."""
        with pytest.raises(InputError, match=r"^cache"):
            EmbeddingClient("http://x", cache=wrong)

    @pytest.mark.parametrize("wrong", [0, 2**16 - 1, 1e9, True, "1GB", None], ids=repr)
    def test_no_size(self, wrong: Any, path: Path) -> None:
        """A size is a number of bytes that is large enough."""
        with pytest.raises(InputError, match=r"cache\.max_bytes must be an int of at least 65536"):
            VectorCache(path, max_bytes=wrong)

    def test_stays_where_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path is kept as an absolute one, and ~ is the user's folder."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert VectorCache("c").path == VectorCache("~/c").path == str(tmp_path / "c")
        assert VectorCache("c") == VectorCache(tmp_path / "c")

    def test_nothing_is_made(self, path: Path) -> None:
        """Making a client makes no file."""
        EmbeddingClient("http://x", cache=path)
        assert not path.exists()
