"""The settings that suit a server, to paste for LangChain and LlamaIndex. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from embedwire.doctor.contact import Met
from embedwire.doctor.findings import Finding, Level
from embedwire.doctor.prompts import Family, family_of, written

# What a finding of a level asks for.
_ARGUMENTS: tuple[tuple[str, Level, str], ...] = (
    ("unit length", "note", "normalize=True"),
    ("base64", "problem", 'encoding="float"'),
    ("fields", "note", "encoding=None"),
    ("batch and alone", "problem", "batch_size=1"),
)
_FRAMEWORKS = (
    ("LangChain", "embedwire.langchain", "EmbedwireEmbeddings", "embeddings"),
    ("LlamaIndex", "embedwire.llama_index", "EmbedwireEmbedding", "embed_model"),
)


def settings(url: str, met: Met, findings: Sequence[Finding], *, key: bool) -> tuple[tuple[str, str], ...]:
    """Code for each framework.

    Args:
        url: That leads straight to the server.
        met: The server.
        findings: What was found; some ask for an argument.
        key: Whether it was asked with a key.

    Returns:
        The framework's name, and lines of Python.
    """
    model, family = met.model, None if met.model is None else family_of(met.model)
    wanted = "" if family is None else _prompts(family)
    made = {(finding.name, finding.level) for finding in findings}
    arguments = [
        f"base_url={_quoted(url)}",
        "" if model is None else f"model={_quoted(model)}",
        wanted,
        *(argument for name, level, argument in _ARGUMENTS if (name, level) in made),
    ]
    body = "".join(f"    {argument},\n" for argument in arguments if argument)
    imported = "from embedwire import Prompts\n" if "Prompts(" in wanted else ""
    note = "# The key stands in the environment: EMBEDWIRE_API_KEY.\n" if key else ""
    return tuple(
        (name, f"{imported}from {module} import {kind}\n\n{note}{variable} = {kind}(\n{body})")
        for name, module, kind, variable in _FRAMEWORKS
    )


def _prompts(family: Family) -> str:
    """The argument that says a family's prompts; empty ones where its card must be read; "" for none."""
    if family.own:
        return 'prompts=Prompts(query="", document="")'
    return "" if family.prompts is None else f"prompts={written(family.prompts)}"


def _quoted(text: str) -> str:
    """A str as Python writes it, in double quotes: JSON's way is one of its ways."""
    return orjson.dumps(text).decode()
