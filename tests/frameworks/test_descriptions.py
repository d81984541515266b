"""What an editor shows: each option of the adapters, and each public method, is told of where it stands."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest
from pydantic import BaseModel

from embedwire import EmbeddingClient, SharedEmbeddingClient
from embedwire._clients.manual import arguments_of
from embedwire._settings.options import PRESETS, Family
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding

ADAPTERS = [EmbedwireEmbeddings, EmbedwireEmbedding]
CLASSES = [EmbeddingClient, SharedEmbeddingClient, *ADAPTERS]


def test_each_argument_of_the_constructor_is_told_of() -> None:
    """The one text has a paragraph for each argument, and for no other."""
    assert [*arguments_of(EmbeddingClient)] == [*inspect.signature(EmbeddingClient).parameters]
    assert arguments_of(EmbeddingClient)["too_long"].endswith('Default: ``"raise"``.')


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_each_field_says_what_the_constructor_says(adapter: type[BaseModel]) -> None:
    """A field's description is the client's own text for it, so there is no second copy to go stale."""
    about = arguments_of(EmbeddingClient)
    ours = {name: field for name, field in adapter.model_fields.items() if name in about and name != "model"}
    assert len(ours) == len(about) - 1
    assert {name: field.description for name, field in ours.items()} == {name: about[name] for name in ours}
    assert adapter.model_fields["model"].description
    assert adapter.model_fields["model_name"].description


def test_without_docstrings_all_works() -> None:
    """Under -OO there is nothing to show, and nothing fails."""

    class Bare:
        def __init__(self) -> None: ...

    assert arguments_of(Bare) == {}


def test_the_names_of_prompts_are_offered() -> None:
    """What a type checker offers for `prompts` are the families that there are."""
    assert set(get_args(Family)) == set(PRESETS)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_public_method_says_what_it_takes_and_gives(kind: type) -> None:
    """No method of ours sends its reader to another one; those with arguments name them, and what they raise."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if name.startswith("_") or not method.__module__.startswith("embedwire") or name == "model_post_init":
            continue
        told = inspect.getdoc(method) or ""
        assert told, name
        if name.removeprefix("a").startswith(("embed", "stream", "wait_ready")):
            assert "Args:" in told, name
            assert "Raises:" in told, name
            assert not told.startswith("As `"), name
