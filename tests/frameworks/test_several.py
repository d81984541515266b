"""Several servers at both adapters: they are passed, dumped, loaded and pickled, and no key is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from langchain_core.load import dumps
from pydantic import ValidationError

from embedwire import BatchLimits, ByKind, Prompts, RateLimit, RetryPolicy, Server, Timeouts
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import EmbeddingServer
from tests.helpers import pickled, right

KEY = "sk-never-to-be-seen"
ONE, TWO = "http://one:8080", "http://two:8080"


@pytest.fixture
def servers() -> Iterator[list[EmbeddingServer]]:
    """Two servers of one model."""
    with EmbeddingServer() as one, EmbeddingServer() as two:
        yield [one, two]


class TestBoth:
    """Both adapters take a list where they take a URL."""

    def test_embed(self, servers: list[EmbeddingServer], monkeypatch: pytest.MonkeyPatch) -> None:
        """Texts go to all servers of a list, passed or from the environment."""
        urls = [server.url for server in servers]
        monkeypatch.setenv("EMBEDWIRE_BASE_URL", ",".join(urls))
        texts = [f"text {number}" for number in range(100)]
        with closing(EmbedwireEmbeddings([urls[0], Server(urls[1])], model="m")) as chain:
            assert right(chain.embed_documents(texts), texts)
        with closing(EmbedwireEmbedding(model_name="m")) as index:
            assert index.base_url == tuple(urls)
            assert right(index.get_text_embedding_batch(texts), texts)
        assert all(sum(map(len, server.batches)) > 2 for server in servers)

    @pytest.mark.parametrize("adapter", [EmbedwireEmbeddings, EmbedwireEmbedding])
    @pytest.mark.parametrize("wrong", [[], [ONE, ONE], [ONE, 5], [ONE, Server(ONE, api_key=KEY)]])
    def test_wrong_lists(
        self, adapter: type[EmbedwireEmbeddings | EmbedwireEmbedding], wrong: list[object]
    ) -> None:
        """A wrong list is a ValidationError that names it and shows no key."""
        with pytest.raises(ValidationError, match="base_url") as refused:
            adapter(base_url=wrong)  # type: ignore[arg-type]
        assert KEY not in str(refused.value)

    def test_dumps(self) -> None:
        """Dumps have URLs and weights, never a key, and load as the same servers."""
        servers: list[str | Server] = [ONE, Server(TWO, api_key=KEY, weight=2), f"http://me:{KEY}@three"]
        told = [ONE, {"url": TWO, "weight": 2.0}, "http://three"]
        chain = EmbedwireEmbeddings(servers, same_model=0.98, hedge="p95")
        assert chain.model_dump()["base_url"] == told
        assert KEY not in repr(chain) + str(chain) + dumps(chain) + chain.model_dump_json()
        again = EmbedwireEmbeddings.model_validate_json(chain.model_dump_json())
        assert again.base_url == (ONE, Server(TWO, weight=2), "http://three")
        assert (again.same_model, again.hedge) == (0.98, "p95")
        index = EmbedwireEmbedding(servers)
        assert index.to_dict()["base_url"] == told
        assert KEY not in repr(index) + index.to_json()
        assert EmbedwireEmbedding.from_dict(index.to_dict()).to_dict() == index.to_dict()

    def test_pickles_and_copies(self) -> None:
        """A pickle and a copy have all servers, with keys that were passed."""
        servers = (ONE, Server(TWO, api_key=KEY))
        assert pickled(EmbedwireEmbeddings(servers)).base_url == servers
        assert pickled(EmbedwireEmbedding(servers)).base_url == servers
        assert EmbedwireEmbeddings(servers).model_copy(update={"deadline": 3}).base_url == servers

    def test_what_was_dumped_is_equal(self) -> None:
        """An adapter made of its own dump is equal to it, records among its options included."""
        chain = EmbedwireEmbeddings(
            [Server(ONE, weight=2), TWO],
            timeout=Timeouts(total=5),
            batch_size=BatchLimits(texts=3),
            max_retries=RetryPolicy(attempts=2),
            rate_limit=RateLimit(per_second=3),
            prompts=Prompts(query="q: "),
            extra_body=ByKind(query={"a": 1}),
        )
        assert EmbedwireEmbeddings(**chain.model_dump()) == chain
        assert EmbedwireEmbeddings.model_validate_json(chain.model_dump_json()) == chain
        assert EmbedwireEmbeddings(**EmbedwireEmbeddings(ONE).model_dump()) == EmbedwireEmbeddings(ONE)
