"""Sizes that were found, and what follows from them."""

from __future__ import annotations

from embedwire._limits import Learned, Sizes, batch_limits
from tests.unit.arguments import kept


def test_a_cap_found_by_trying_holds_for_queries_too() -> None:
    """Queries that wait together are no more than what was seen to go well."""
    learned = Learned("http://localhost:8080/v1")
    form = kept(model="m").form
    assert batch_limits(form, learned, "query").texts == 32
    learned.sizes[form.variant, "document"] = Sizes(texts=16, most=16)
    assert batch_limits(form, learned, "query").texts == 16
    learned.sizes[form.variant, "query"] = Sizes(texts=128, most=100)
    assert batch_limits(form, learned, "query").texts == 16
    learned.sizes[form.variant, "document"] = Sizes(texts=128)
    assert batch_limits(form, learned, "query").texts == 100
