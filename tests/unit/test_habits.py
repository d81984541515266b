"""What an argument is called here: the advice names arguments that there are, and is given by both clients."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import embedwire
from embedwire import EmbeddingClient, SharedEmbeddingClient
from embedwire._settings.habits import _HABITS, advice

OPTIONS = inspect.signature(EmbeddingClient).parameters


class TestHabits:
    """The table of what other classes call their arguments."""

    @pytest.mark.parametrize("name", sorted(_HABITS))
    def test_names_an_argument_that_there_is(self, name: str) -> None:
        """Each piece of advice names an argument or a method of this package, and no habit is one itself."""
        assert name not in OPTIONS
        said = _HABITS[name]
        for option in re.findall(r"(?<![?(_ ])\b(\w+)=", re.sub(r"\(.*?\)|\{.*?\}|'.*?'", "", said)):
            assert option in OPTIONS
        for record in re.findall(r"\b([A-Z]\w+)\(", said):
            assert record in embedwire.__all__
        assert "=" in said or "leave it out" in said

    @pytest.mark.parametrize("kind", [EmbeddingClient, SharedEmbeddingClient])
    @pytest.mark.parametrize(
        ("name", "cure"),
        [
            ("openai_api_base", "pass base_url="),
            ("request_timeout", "pass timeout="),
            ("chunk_size", "pass batch_size="),
            ("check_embedding_ctx_length", "leave it out"),
            ("model_kwargs", "pass extra_body="),
            ("batchsize", "did you mean 'batch_size'?"),
            ("max_retry", "did you mean 'max_retries'?"),
            ("base_ur", "did you mean 'base_url'?"),
            ("zzz", "there is no argument 'zzz' here"),
        ],
    )
    def test_clients_give_it(self, kind: Any, name: str, cure: str) -> None:
        """Passed to a client, an argument that there is not is a TypeError with its cure; its value is not shown."""
        with pytest.raises(TypeError, match=f"'{name}'") as refused:
            kind("http://h", **{name: "sk-never-to-be-seen"})
        assert cure in str(refused.value)
        frames = []
        trace = refused.value.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals["__name__"].startswith("embedwire"):
                frames.append(str(trace.tb_frame.f_locals))
            trace = trace.tb_next
        assert "never-to-be-seen" not in "".join(frames)

    def test_only_what_is_near(self) -> None:
        """A name that is like none gets no wrong guess."""
        assert advice("quux", OPTIONS) == "there is no argument 'quux' here"
