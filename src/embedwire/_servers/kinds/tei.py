"""Hugging Face's text-embeddings-inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedwire._servers.kinds.base import ServerKind, Told, Words, count


def _info(reply: Mapping[str, Any]) -> Told:
    return Told(
        context=count(reply.get("max_input_length")), max_texts=count(reply.get("max_client_batch_size"))
    )


TEI = ServerKind(
    name="text-embeddings-inference",
    own_header="x-compute-type",  # it sends no Server header
    tells="/info",
    read=_info,
    words=Words(
        too_long=r"must have less than \d+ tokens",
        tokens=r"must have less than (?P<limit>\d+) tokens\. Given: (?P<tokens>\d+)",
        loading=r"model is not ready",
        too_many=r"maximum allowed batch size\D{0,12}?(?P<most>\d+)",
    ),
)
