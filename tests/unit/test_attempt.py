"""One job's body and reply: what is noted of the server, without one."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from embedwire._http.attempt import Attempt
from embedwire._http.records import Job
from embedwire._http.reply import ContractBroken
from embedwire._http.steps import at_once
from embedwire._http.wire import Reply
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire.testing import vector
from embedwire.testing._vectors import to_base64
from tests.unit.arguments import form

TEXTS = ["one", "two"]


def attempt(facts: ModelFacts, *, name: str | None = "m", **arguments: Any) -> Attempt:
    """A job of two texts, on the first connections that there were."""
    job = Job(form=form(**arguments), model=facts, kind="document", texts=TEXTS)
    return Attempt(job, name, None, ServerFacts(), lambda _: 0, list)


def reply(*, packed: bool = False, life: int = 0, **fields: Any) -> Reply:
    """The right reply."""
    rows = [vector(text, 8) for text in TEXTS]
    data = [
        {"index": index, "embedding": to_base64(row) if packed else row} for index, row in enumerate(rows)
    ]
    return Reply(status=200, headers={}, body=json.dumps({"data": data, **fields}).encode(), life=life)


class TestAnotherServer:
    """A reply on a connection of a later life may be another server's."""

    def test_base64_is_not_believed(self) -> None:
        """Base64 that was believed is refused there, and asked for in decimal."""
        facts = ModelFacts(base64=True, agrees=True)
        mine = attempt(facts, model="m")
        assert orjson.loads(mine.encode(None))["encoding_format"] == "base64"
        with pytest.raises(ContractBroken, match="base64 on a new connection"):
            at_once(mine.read(reply(packed=True, life=1)))
        assert facts.base64 is None
        assert orjson.loads(mine.encode(None))["encoding_format"] == "float"

    @pytest.mark.parametrize(("encoding", "only"), [("auto", "base64"), ("base64", None)])
    def test_but_where_there_is_nothing_else(self, encoding: str, only: str | None) -> None:
        """Where the user wants it, or the server takes nothing else, it is looked at as ever."""
        mine = attempt(ModelFacts(only=only), model="m", encoding=encoding)
        assert orjson.loads(mine.encode(None))["encoding_format"] == "base64"
        assert len(at_once(mine.read(reply(packed=True, life=1))).matrix) == 2

    def test_its_model_is_asked_for(self) -> None:
        """Where the user named none, the server is to be asked what it serves."""
        facts = ModelFacts(served="m", asked_model=True)
        mine = attempt(facts)
        mine.encode(None)
        at_once(mine.read(reply()))
        assert facts.asked_model
        at_once(mine.read(reply(life=1)))
        assert not facts.asked_model

    def test_a_name_that_holds_no_more(self) -> None:
        """Vectors that were asked for under the last model's name are not used, and nothing is learnt of them."""
        facts = ModelFacts(served="n", asked_model=True, named="n")
        mine = attempt(facts)
        mine.encode(None)
        with pytest.raises(ContractBroken, match="does not serve any more"):
            at_once(mine.read(reply(model="m")))
        assert mine.stale
        assert (facts.named, facts.width) == ("n", None)


class TestNames:
    """What a reply names is noted once."""

    def test_the_first_one_wins(self) -> None:
        """A name is kept where later replies have none, and another one is refused, with what was known of it."""
        facts = ModelFacts()
        mine = attempt(facts, model="m")
        mine.encode(None)
        for fields in ({}, {"model": "alias"}, {}, {"model": ""}):
            at_once(mine.read(reply(**fields)))
        assert (facts.named, facts.width) == ("alias", 8)
        with pytest.raises(
            ContractBroken, match="another model: 'other', where earlier ones came from 'alias'"
        ):
            at_once(mine.read(reply(model="other")))
        assert mine.exchanged
        assert (facts.named, facts.width, facts.sample) == ("other", None, None)
