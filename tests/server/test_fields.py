"""Fields that a server refuses are learnt from the refusal: one request, and none for what comes after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embedwire import BadReply, EmbeddingClient, RequestError
from embedwire.testing import Answer, EmbeddingServer, Gate, Request, vector
from tests.helpers import numbered, right
from tests.server.doors import own
from tests.server.test_replies import DOORS, Door, asked, packed

TEXTS = numbered(12)
ONE_BY_ONE: dict[str, Any] = {"model": "m", "batch_size": 4, "concurrency": 1}


@pytest.fixture(params=DOORS, ids=["client", "langchain", "llama_index"])
def embed(request: pytest.FixtureRequest) -> Door:
    """A door, which is given a URL, texts and arguments."""
    door: Door = request.param
    return door


def refusing(no: Answer, wrong: Callable[[dict[str, Any]], bool]) -> Callable[[Request], Answer | None]:
    """Refuses each request whose body is wrong."""
    return lambda request: no if request.embeds and wrong(request.json) else None


def detail(field: str, message: str, given: object) -> Answer:
    """A refusal in FastAPI's shape, which repeats what was sent."""
    told = {"type": "extra_forbidden", "loc": ["body", field], "msg": message, "input": given}
    return Answer(status=422, body={"detail": [told]})


NO_ENCODING = {
    "Jina": Answer(status=400, body={"detail": "extra fields not permitted: ['encoding_format']"}),
    "FastAPI": detail("encoding_format", "Extra inputs are not permitted", "float"),
    "OpenAI": Answer.error(400, "Unknown parameter: 'encoding_format'.", param="encoding_format"),
    "a name in param alone": Answer.error(400, "Unsupported parameter", param="encoding_format"),
    "Go": Answer(status=400, body={"error": 'json: unknown field "encoding_format"'}),
    "text/plain": Answer(status=422, body=b"encoding_format: unexpected field"),
    "a text beside it": Answer.error(400, f"encoding_format is not supported; input was {TEXTS}"),
    "a failure": Answer.error(500, "UnsupportedParamsError: {'encoding_format': 'float'}"),
}


class TestEncoding:
    """Where a server refuses `encoding_format`, it is left out."""

    @pytest.mark.parametrize("who", NO_ENCODING)
    @pytest.mark.parametrize("encoding", ["auto", "float"])
    async def test_is_left_out(self, who: str, encoding: str, embed: Door, server: EmbeddingServer) -> None:
        """One request is refused in all, and none of a later call."""
        server.script = refusing(NO_ENCODING[who], lambda body: "encoding_format" in body)
        for _ in range(2):
            assert right(await embed(server.url, TEXTS, encoding=encoding, **ONE_BY_ONE), TEXTS)
        assert asked(server, "encoding_format") == ["float"] + 6 * [""]

    async def test_what_is_on_the_wire(self) -> None:
        """Requests that were on the wire at the first refusal are sent again, and none after them is refused."""
        gate = Gate()

        def script(request: Request) -> Answer | None:
            refused = request.embeds and "encoding_format" in request.json
            return (
                Answer(status=400, body={"detail": "extra: encoding_format"}, gate=gate) if refused else None
            )

        async with (
            EmbeddingServer(script=script) as server,
            own(server, batch_size=4, concurrency=3) as client,
        ):
            texts = numbered(40)
            embedding = asyncio.ensure_future(client.embed(texts))
            await server.wait_for(lambda: len(server.batches) == 3)
            gate.open()
            assert right(await embedding, texts)
            assert asked(server, "encoding_format") == 3 * ["float"] + 10 * [""]

    async def test_the_users_wish_stands(self, embed: Door, server: EmbeddingServer) -> None:
        """With `encoding="base64"` the refusal is the answer."""
        server.script = refusing(NO_ENCODING["OpenAI"], lambda body: "encoding_format" in body)
        with pytest.raises(RequestError, match="Unknown parameter: 'encoding_format'"):
            await embed(server.url, TEXTS[:1], model="m", encoding="base64")
        assert asked(server, "encoding_format") == ["base64"]

    @pytest.mark.parametrize(
        "no",
        [
            detail("encoding_format", "Input should be 'base64'", "float"),
            Answer.error(400, "encoding_format 'float' is not supported, use 'base64'"),
            Answer.error(400, "encoding_format: accepted values are ['base64', null], got 'float'"),
        ],
    )
    async def test_only_base64(self, no: Answer, embed: Door, server: EmbeddingServer) -> None:
        """A server that takes only base64 is asked for that, after one refusal."""
        server.script = refusing(no, lambda body: body.get("encoding_format") != "base64")
        for _ in range(2):
            assert right(await embed(server.url, TEXTS, **ONE_BY_ONE), TEXTS)
        assert asked(server, "encoding_format") == ["float"] + 6 * ["base64"]

    async def test_only_base64_and_nothing_in_it(self, embed: Door) -> None:
        """Where that base64 holds something else, there are no vectors."""
        with EmbeddingServer(dimensions=256) as server:

            def script(request: Request) -> Answer | None:
                if not request.embeds or request.json.get("encoding_format") != "base64":
                    return (
                        detail("encoding_format", "Input should be 'base64'", "float")
                        if request.embeds
                        else None
                    )
                rows = [packed(vector(text, 256), "<f8") for text in request.texts]
                return Answer.items(
                    lambda data: [{**item, "embedding": row} for item, row in zip(data, rows, strict=True)]
                )

            server.script = script
            with pytest.raises(BadReply, match="32-bit floats"):
                await embed(server.url, TEXTS[:2], model="m")
            assert asked(server, "encoding_format") == ["float", "base64"]

    async def test_it_must_be_there(self, embed: Door, server: EmbeddingServer) -> None:
        """A server that refuses "float", and then that the field is not there, is asked for base64."""

        def script(request: Request) -> Answer | None:
            said = request.json.get("encoding_format") if request.embeds else "base64"
            if said is None:
                return detail("encoding_format", "Field required", None)
            return None if said == "base64" else Answer.error(400, "encoding_format: unknown value")

        server.script = script
        assert right(await embed(server.url, TEXTS, **ONE_BY_ONE), TEXTS)
        assert asked(server, "encoding_format") == ["float", "", *3 * ["base64"]]

    async def test_only_float(self, here: EmbeddingServer) -> None:
        """A server that takes only float is asked for base64 once, by nobody else again."""
        no = Answer.error(400, "encoding_format must be 'float'")
        here.script = refusing(no, lambda body: body.get("encoding_format") == "base64")
        async with EmbeddingClient(here.url, model="m") as client:
            for round_ in "abc":
                texts = numbered(100, round_)
                assert right(await client.embed(texts), texts)
        assert asked(here, "encoding_format").count("base64") == 1


class TestDimensions:
    """Where a server refuses `dimensions`, or does not heed them, vectors are cut here, and it is said once."""

    @staticmethod
    def cut(text: str, dimensions: int = 4) -> Any:
        """What should come of a vector of eight numbers."""
        head = np.array(vector(text, 8)[:dimensions])
        return head / np.linalg.norm(head)

    @pytest.mark.parametrize(
        "no",
        [
            Answer.error(400, "This model does not support specifying dimensions."),
            Answer.error(400, "Unrecognized request argument supplied: dimensions"),
            detail("dimensions", "Extra inputs are not permitted", 4),
            Answer.error(
                400, 'Model "m" does not support matryoshka representation, changing output dimensions'
            ),
            None,
        ],
        ids=["OpenAI", "Azure", "FastAPI", "vLLM", "ignored"],
    )
    async def test_are_cut_here(
        self, no: Answer | None, embed: Door, server: EmbeddingServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One request is refused in all; each vector has unit length; one warning, however many calls."""
        if no is not None:
            server.script = refusing(no, lambda body: "dimensions" in body)
        for _ in range(2):
            rows = await embed(server.url, TEXTS, dimensions=4, **ONE_BY_ONE)
            assert np.allclose(rows, [self.cut(text) for text in TEXTS], atol=1e-6)
        assert asked(server, "dimensions") == (6 * [4] if no is None else [4, *6 * [""]])
        warned = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warned) == 1
        assert "does not heed dimensions=4: its vectors of 8 numbers are cut here" in warned[0].getMessage()

    async def test_both_are_refused(self, embed: Door, server: EmbeddingServer) -> None:
        """A server that refuses both fields, one after the other, costs two requests."""

        def script(request: Request) -> Answer | None:
            for field in ("encoding_format", "dimensions") if request.embeds else ():
                if field in request.json:
                    return Answer.error(400, f"Unknown parameter: '{field}'.", param=field)
            return None

        server.script = script
        rows = await embed(server.url, TEXTS, dimensions=4, **ONE_BY_ONE)
        assert np.allclose(rows, [self.cut(text) for text in TEXTS], atol=1e-6)
        assert len(server.batches) == 5

    async def test_the_server_cuts_and_leaves_it_short(self, embed: Door, server: EmbeddingServer) -> None:
        """Vectors that the server cut have unit length, without a warning and in one request."""
        server.script = lambda request: (
            Answer.vectors(lambda rows: [row[:4] for row in rows]) if request.embeds else None
        )
        rows = await embed(server.url, TEXTS, model="m", dimensions=4)
        assert np.allclose(rows, [self.cut(text) for text in TEXTS], atol=1e-6)
        assert np.allclose(np.linalg.norm(rows, axis=1), 1)

    async def test_too_many(self, embed: Door, server: EmbeddingServer) -> None:
        """More than the model has is an error that says how many there are; that many are given."""
        with pytest.raises(
            BadReply, match=r"8 numbers where dimensions=9.*Ask for at most 8 \(dimensions=\)"
        ):
            await embed(server.url, TEXTS[:1], model="m", dimensions=9)
        assert right(await embed(server.url, TEXTS[:1], model="m", dimensions=8), TEXTS[:1])
        assert len(server.batches) == 2


class TestSuspicion:
    """A field that was not the reason is not suspected twice."""

    async def test_is_dropped(self, embed: Door, server: EmbeddingServer) -> None:
        """Refused all the same without the field, the refusal is the answer; the next one comes at once."""
        no = Answer.error(400, "no such model; fields: input, encoding_format, dimensions")
        server.script = lambda request: no if request.embeds else None
        for requests in (2, 1):
            before = len(server.batches)
            with pytest.raises(RequestError, match="no such model"):
                await embed(server.url, TEXTS[:1], model="m", dimensions=4)
            assert len(server.batches) - before == requests
        server.script = None
        await embed(server.url, TEXTS[:1], model="m", dimensions=4)
        assert asked(server, "encoding_format")[-1] == "float"
        assert asked(server, "dimensions")[-1] == 4

    async def test_of_a_text(self, embed: Door, server: EmbeddingServer) -> None:
        """A text that is about the fields, and is repeated in its refusal, changes nothing for the others."""
        text = "why is encoding_format not supported?"
        no = Answer.error(400, f"cannot embed '{text}'")
        server.script = lambda request: no if text in request.texts else None
        with pytest.raises(RequestError) as caught:
            await embed(server.url, [*TEXTS, text], **ONE_BY_ONE)
        assert text not in str(caught.value)
        assert right(await embed(server.url, TEXTS, **ONE_BY_ONE), TEXTS)
        assert asked(server, "encoding_format")[-1] == "float"
