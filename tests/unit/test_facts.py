"""What was learnt of servers and models: what is kept, for whom, and when it is forgotten."""

from __future__ import annotations

import pytest

from embedwire._servers import known
from embedwire._servers.facts import ModelFacts, ServerFacts, same_model
from embedwire._servers.kinds import OPENAI_LIKE, Told
from embedwire._servers.kinds.llama_cpp import LLAMA_CPP
from embedwire._settings.address import Target
from tests.unit.arguments import form, kept


def target(**arguments: object) -> Target:
    """Where a client with these arguments sends to."""
    return kept(**arguments).fleet.targets[0]


class TestServer:
    """What is known of a server, whoever asks."""

    @pytest.mark.parametrize(
        ("headers", "kind", "software"),
        [
            ({"server": "llama.cpp"}, "llama.cpp", "llama.cpp"),
            ({"server": "uvicorn"}, None, "uvicorn"),
            ({}, None, None),
            ({"x-compute-type": "cpu"}, "text-embeddings-inference", "text-embeddings-inference"),
            ({"x-compute-type": "cpu", "server": "nginx"}, "text-embeddings-inference", "nginx"),
        ],
    )
    def test_is_known_by_its_first_reply(
        self, headers: dict[str, str], kind: str | None, software: str | None
    ) -> None:
        """Its kind, and what it calls itself."""
        facts = ServerFacts()
        facts.met(headers)
        assert (facts.kind and facts.kind.name, facts.software) == (kind, software)

    def test_is_known_by_its_list_of_models_behind_a_proxy(self) -> None:
        """A proxy's header tells nothing; the owner of the models does, and stays until the server may be another."""
        facts = ServerFacts()
        facts.met({"server": "nginx"})
        assert facts.kind is None
        facts.lists(["m.gguf"], ["llamacpp"])
        facts.met({"server": "nginx"})
        assert facts.kind is LLAMA_CPP
        facts.forget()
        facts.met({"server": "nginx"})
        assert facts.kind is None

    @pytest.mark.parametrize("owners", [[], ["someone"]])
    def test_what_lists_nothing_is_one_of_the_rest(self, owners: list[str]) -> None:
        """A server that was asked, and shows no software, is not asked for it again."""
        facts = ServerFacts()
        facts.lists([], owners)
        assert facts.kind is OPENAI_LIKE

    def test_the_same_server_is_not_asked_again(self) -> None:
        """What it told stays, as long as its headers are the same."""
        facts = ServerFacts()
        facts.met({"server": "llama.cpp"})
        facts.told, facts.asked = Told(slots=4), True
        facts.met({"server": "llama.cpp", "keep-alive": "timeout=5"})
        assert (facts.told, facts.asked) == (Told(slots=4), True)

    @pytest.mark.parametrize("headers", [{"server": "llama.cpp/2"}, {"server": "vllm"}, {}])
    def test_another_software_is_asked_anew(self, headers: dict[str, str]) -> None:
        """Where other software answers, what the last one told does not hold."""
        facts = ServerFacts()
        facts.met({"server": "llama.cpp"})
        facts.told, facts.asked, facts.unanswered, facts.alive = Told(slots=4), True, 2, True
        facts.met(headers)
        assert (facts.told, facts.asked, facts.unanswered, facts.alive) == (Told(), False, 0, True)

    def test_without_a_server_header_tei_is_still_the_same(self) -> None:
        """A server that sends no Server header is not taken for another one each time."""
        facts = ServerFacts()
        facts.met({"x-compute-type": "cpu"})
        facts.told, facts.asked = Told(max_texts=32), True
        facts.met({"x-compute-type": "cpu"})
        assert (facts.told, facts.asked) == (Told(max_texts=32), True)


class TestModel:
    """What one visitor sees of one model."""

    def test_the_usual_time_follows_slowly(self) -> None:
        """The first request tells how long one takes; later ones move it by three tenths."""
        facts = ModelFacts()
        assert facts.seconds is None
        for took, usual in ((10, 10), (0, 7), (7, 7)):
            facts.succeeded(took, at_once=True)
            assert facts.seconds == pytest.approx(usual)

    def test_a_restart_leaves_what_must_be_contradicted(self) -> None:
        """After a restart the model is asked for and base64 seen anew; width and name stay, so that a change shows."""
        facts = ModelFacts(served="m", asked_model=True, named="m", width=4, sample=("a", None), base64=True)
        facts.agrees = True
        facts.reborn()
        assert (facts.served, facts.asked_model, facts.named, facts.width) == ("m", False, "m", 4)
        assert (facts.sample, facts.base64, facts.agrees) == (None, None, True)
        listless = ModelFacts(asked_model=True)
        listless.reborn()
        assert listless.asked_model

    def test_another_model_is_met_anew(self) -> None:
        """Of another model nothing holds that was learnt of the last one; of the same one, all."""
        facts = ModelFacts()
        assert not facts.serves("m")
        facts.width, facts.base64, facts.left_out = 4, True, frozenset({"dimensions"})
        for same in ("m", "M:latest", None):
            assert not facts.serves(same)
            assert (facts.width, facts.base64) == (4, True)
        assert not facts.serves("m")
        assert facts.serves("n")
        assert (facts.width, facts.base64, facts.left_out) == (None, None, frozenset())

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("m", "m", True),
            ("m", "M", True),
            ("m", "m:latest", True),
            (None, "m", True),
            ("", "m", True),
            ("m", "n", False),
            ("m:latest", "m:v2", False),
            ("a/m", "b/m", False),
            ("m", "m-v2", False),
        ],
    )
    def test_names_of_one_model(self, one: str | None, other: str | None, same: bool) -> None:
        """Case and Ollama's tag make no other model of a name, and a missing one says nothing."""
        assert same_model(one, other) is same_model(other, one) is same


class TestKnown:
    """What is kept for the life of the process."""

    def test_a_server_is_one_for_all_visitors(self) -> None:
        """Software and slots are the server's own, whoever asks, until all is forgotten."""
        facts = known.server_facts("http://h/v1")
        assert known.server_facts("http://h/v1") is facts
        assert known.server_facts("http://h:81/v1") is not facts
        known.forget()
        assert known.server_facts("http://h/v1") is not facts

    @pytest.mark.parametrize(
        "other",
        [{"api_key": "other"}, {"headers": {"X-Tenant": "other"}}, {"base_url": "http://other"}],
        ids=["key", "headers", "server"],
    )
    def test_a_visitor_sees_models_of_its_own(self, other: dict[str, object]) -> None:
        """What one key or header sees of a model, and its sizes, holds for no other."""
        mine, theirs = target(), target(**other)
        for look in (known.model_facts, known.sizing):
            assert look(mine, (None, None)) is look(target(), (None, None))
            assert look(mine, (None, None)) is not look(theirs, (None, None))

    def test_each_model_and_number_of_dimensions_is_its_own(self) -> None:
        """Behind one URL there may be several kinds."""
        mine = target()
        variants = [(None, None), ("m", None), ("m", 4), (None, 4)]
        for look in (known.model_facts, known.sizing):
            assert len({id(look(mine, variant)) for variant in variants}) == len(variants)

    def test_the_oldest_model_makes_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process that meets a new key with each of its users does not grow for ever."""
        monkeypatch.setattr(known, "MOST_MODELS", 3)
        visitors = [target(api_key=f"key {number}") for number in range(5)]
        facts = [known.model_facts(visitor, (None, None)) for visitor in visitors]
        assert [known.model_facts(visitor, (None, None)) for visitor in visitors[2:]] == facts[2:]
        assert known.model_facts(visitors[0], (None, None)) is not facts[0]

    def test_info_has_what_is_known(self) -> None:
        """What the user named counts before what the server told, and nothing is made up."""
        mine, plain = target(), form()
        empty = known.server_info(mine, plain)
        assert (empty.url, empty.software, empty.model, empty.slots, empty.base64) == (
            mine.base_url,
            None,
            None,
            None,
            None,
        )
        server, model = known.server_facts(mine.base_url), known.model_facts(mine, plain.variant)
        server.met({"server": "llama.cpp"})
        server.told = Told(slots=4, context=512)
        model.served, model.width, model.base64 = "m", 384, True
        known.sizing(mine, plain.variant).texts.named(32)
        info = known.server_info(mine, plain)
        assert (info.software, info.model, info.dimensions) == ("llama.cpp", "m", 384)
        assert (info.slots, info.context, info.max_texts, info.max_chars) == (4, 512, 32, None)
        assert info.base64
        named = known.server_info(mine, form(model="n", dimensions=8))
        assert (named.model, named.dimensions, named.base64, named.max_texts) == ("n", 8, None, None)
