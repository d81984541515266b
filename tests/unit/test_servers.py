"""A list of servers, as an argument: what it may be, whose key goes where, what is shown of it."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from embedwire import EmbeddingClient, InputError, Server, SharedEmbeddingClient
from embedwire._settings.secret import Secret
from embedwire._settings.servers import Hedge, dumped_servers
from tests.unit.arguments import kept

ONE, TWO = "http://one:8080", "http://two:8080"
KEY = "sk-never-to-be-seen"


class TestServer:
    """One of several servers checks itself."""

    @pytest.mark.parametrize(
        ("arguments", "cure"),
        [
            ({"url": "one:8080"}, "must start with http://"),
            ({"url": 5}, "must be a str"),
            ({"url": ONE, "api_key": ""}, "pass None for no key"),
            ({"url": ONE, "api_key": f"{KEY}\n"}, "line break"),
            ({"url": ONE, "headers": {"X A": KEY}}, "no HTTP header name"),
            ({"url": ONE, "headers": {"X": f"{KEY}\n"}}, "without line breaks"),
            ({"url": ONE, "weight": 0}, "above 0"),
            ({"url": ONE, "weight": -1}, "above 0"),
            ({"url": ONE, "weight": "2"}, "above 0"),
            ({"url": ONE, "weight": float("nan")}, "above 0"),
            ({"url": ONE, "weight": True}, "above 0"),
        ],
    )
    def test_is_refused_with_the_cure(self, arguments: dict[str, Any], cure: str) -> None:
        """A bad argument is an InputError that says the cure and shows no key."""
        with pytest.raises(InputError) as refused:
            Server(**arguments)
        assert cure in str(refused.value)
        assert KEY not in str(refused.value)

    def test_shows_no_secret(self) -> None:
        """Neither key, header, password nor query stand in its repr; a pickle carries what was passed."""
        server = Server(f"http://me:{KEY}@one?key={KEY}", headers={"X-Token": KEY}, weight=2)
        assert repr(server) == "Server('http://one', weight=2)"
        keyed = Server(ONE, api_key=KEY)
        assert KEY not in repr(keyed)
        assert pickle.loads(pickle.dumps(keyed)) == copy.deepcopy(keyed) == keyed
        assert hash(keyed) == hash(Server(ONE, api_key=KEY))

    def test_cannot_be_changed(self) -> None:
        """It is frozen."""
        with pytest.raises(AttributeError):
            Server(ONE).weight = 2.0  # type: ignore[misc]


class TestLists:
    """What `base_url=` may be."""

    @pytest.mark.parametrize(
        ("value", "cure"),
        [
            ([], "is an empty list"),
            ((), "is an empty list"),
            ([ONE, 5], "has 5 in it"),
            ([ONE, None], "has None in it"),
            ([ONE, [TWO]], "has a list in it"),
            ([ONE, {"url": TWO, "key": KEY}], "has a dict in it"),
            ([ONE, "two:8080"], "must start with http://"),
            ([ONE, ONE], f"has the server {ONE}/v1 twice"),
            ([ONE, f"{ONE}/v1"], "twice"),
            ([ONE, f"{ONE}/"], "twice"),
            ([ONE, "HTTP://ONE:8080"], "twice"),
            (["http://one", "http://one:80"], "twice"),
            (["https://one/v1", "https://one:443"], "twice"),
            ([ONE, Server(ONE, api_key=KEY)], "twice"),
        ],
    )
    def test_is_refused_with_the_cure(self, value: object, cure: str) -> None:
        """What is no list of different servers is an InputError."""
        for kind in (EmbeddingClient, SharedEmbeddingClient):
            with pytest.raises(InputError) as refused:
                kind(value)  # type: ignore[arg-type]
            assert cure in str(refused.value)
            assert KEY not in str(refused.value)

    def test_one_in_a_list_is_one(self) -> None:
        """A list of one, a `Server` and a str mean the same."""
        assert kept(base_url=[ONE]) == kept(base_url=Server(ONE)) == kept(base_url=(Server(ONE),))
        assert kept(base_url=[ONE]) == kept(base_url=ONE)

    def test_order_and_weights_count(self) -> None:
        """Servers stand in their order, each with its weight."""
        fleet = kept(base_url=[ONE, Server(TWO, weight=2)]).fleet
        assert [target.base_url for target in fleet.targets] == [f"{ONE}/v1", f"{TWO}/v1"]
        assert fleet.weights == (1.0, 2.0)

    def test_keys_and_headers(self) -> None:
        """The client's hold for each server that has none of its own; a password in a URL is one."""
        servers = [ONE, Server(TWO, api_key="own", headers={"x": "2"}), f"http://me:{KEY}@three"]
        one, two, three = kept(base_url=servers, api_key="all", headers={"x": "1"}).fleet.targets
        assert (one.api_key, two.api_key, three.api_key) == (Secret("all"), Secret("own"), None)
        assert one.headers == (("X", Secret("1")),)
        assert two.headers == (("X", Secret("2")),)
        assert [name for name, _ in three.headers] == ["Authorization", "X"]
        with pytest.raises(InputError, match="leave one out"):
            EmbeddingClient([f"http://me:{KEY}@three"], api_key="all")

    @pytest.mark.parametrize("name", ["Authorization", "authorization"])
    def test_a_key_goes_to_no_server_with_one_of_its_own(self, name: str) -> None:
        """A server's own key, in whatever form, is the only one that it gets; the client's other headers hold."""
        own = Server(TWO, api_key="own")
        headed = Server("http://headed", headers={name: "Bearer its"})
        servers = [ONE, own, headed, f"http://me:{KEY}@three"]
        client = kept(base_url=servers, headers={name: "Bearer all", "x": "1"})
        one, two, headed_one, three = client.fleet.targets
        assert one.headers == (("Authorization", Secret("Bearer all")), ("X", Secret("1")))
        assert (two.api_key, two.headers) == (Secret("own"), (("X", Secret("1")),))
        assert headed_one.headers == (("Authorization", Secret("Bearer its")),)
        assert Secret("Bearer all") not in dict(three.headers).values()
        keyed = kept(base_url=[ONE, headed], api_key=lambda: "all").fleet.targets
        assert [target.api_key is None for target in keyed] == [False, True]

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`EMBEDWIRE_BASE_URL` may be several URLs with commas between; the key goes to each."""
        monkeypatch.setenv("EMBEDWIRE_BASE_URL", f" {ONE}, {TWO},")
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        settings = kept(base_url=None)
        assert settings == kept(base_url=[ONE, TWO])
        assert {target.api_key for target in settings.fleet.visited().targets} == {Secret(KEY)}
        assert KEY.encode() not in pickle.dumps(settings)
        monkeypatch.setenv("EMBEDWIRE_BASE_URL", f"{ONE},")
        assert kept(base_url=None) == kept(base_url=ONE)

    def test_openais_key_goes_to_openai_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of several servers only api.openai.com gets `OPENAI_API_KEY`."""
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        fleet = kept(base_url=[ONE, "https://api.openai.com"]).fleet.visited()
        assert [target.api_key for target in fleet.targets] == [None, Secret(KEY)]

    def test_repr_and_equality(self) -> None:
        """A client's repr names all servers; clients of equal lists are equal."""
        client = SharedEmbeddingClient([ONE, Server(TWO, api_key=KEY)], model="m")
        assert f"['{ONE}/v1', '{TWO}/v1']" in repr(client)
        assert KEY not in repr(client)
        assert client == SharedEmbeddingClient([ONE, Server(TWO, api_key=KEY)], model="m")
        assert client != SharedEmbeddingClient([ONE, TWO], model="m")

    def test_info_before_the_first_use(self) -> None:
        """`server_info()` tells of all servers, of which none was met yet."""
        info = EmbeddingClient([ONE, TWO], model="m").server_info()
        assert [(one.url, one.state, one.reason) for one in info.servers] == [
            (f"{ONE}/v1", "not met", ""),
            (f"{TWO}/v1", "not met", ""),
        ]

    def test_dumps(self) -> None:
        """In dumps stand URLs and weights, never a key; what they load is the same but for it."""
        servers = (ONE, Server(TWO, api_key=KEY, weight=2), f"http://me:{KEY}@three")
        dump = json.loads(json.dumps(dumped_servers(servers)))
        assert dump == [ONE, {"url": TWO, "weight": 2.0}, "http://three"]
        assert kept(base_url=dump) == kept(base_url=[ONE, Server(TWO, weight=2), "http://three"])


class TestTogether:
    """`same_model=` and `hedge=`."""

    @pytest.mark.parametrize("value", [0, -1, 1.1, "0.98", True, float("nan")])
    def test_same_model_is_a_cosine(self, value: object) -> None:
        """What is no number above 0 and up to 1 is refused."""
        with pytest.raises(InputError, match="same_model must be a cosine"):
            EmbeddingClient(ONE, same_model=value)  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [0, -1, "95", "p0", "p100", "P95", True, float("inf"), []])
    def test_hedge_is_seconds_or_a_percentile(self, value: object) -> None:
        """What is neither is refused."""
        with pytest.raises(InputError, match="hedge must be 'p95'"):
            EmbeddingClient(ONE, hedge=value)  # type: ignore[arg-type]

    def test_hedges(self) -> None:
        """Seconds, any percentile, or nothing."""
        assert kept(hedge=0.2).fleet.hedge == Hedge(seconds=0.2)
        assert kept(hedge="p99.5").fleet.hedge == Hedge(share=0.995)
        assert kept().fleet.hedge is None
