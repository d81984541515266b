"""What a server's list of models tells. Pure."""

from __future__ import annotations

from typing import Any

from embedwire._http.reply import parse
from embedwire._settings.checks import is_unicode


def models(body: bytes) -> list[str]:
    """The names in a reply to ``GET /v1/models``.

    Raises:
        ContractBroken: The reply is no JSON object.
    """
    names = [item.get("id") for item in _models(body)]
    return [name for name in names if isinstance(name, str) and is_unicode(name)]


def owners(body: bytes) -> list[str]:
    """Who owns those models, which tells the software.

    Raises:
        ContractBroken: The reply is no JSON object.
    """
    names = [item.get("owned_by") for item in _models(body)]
    return [name for name in names if isinstance(name, str)]


def _models(body: bytes) -> list[dict[str, Any]]:
    data = parse(body).get("data")
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
