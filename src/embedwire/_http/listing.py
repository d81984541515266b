"""What a server's list of models tells. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from embedwire._http.reply import parse
from embedwire._settings.checks import is_unicode


@dataclass(frozen=True, slots=True)
class Listed:
    """The names in a reply to ``GET /v1/models``, and who owns those models, which tells the software."""

    models: list[str]
    owners: list[str]


def listed(body: bytes) -> Listed:
    """What a reply to ``GET /v1/models`` lists.

    Raises:
        ContractBroken: The reply is no JSON object.
    """
    data = parse(body).get("data")
    items = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
    names, owners = [item.get("id") for item in items], [item.get("owned_by") for item in items]
    return Listed(
        [name for name in names if isinstance(name, str) and is_unicode(name)],
        [owner for owner in owners if isinstance(owner, str)],
    )
