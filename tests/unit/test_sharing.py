"""Limits that are shared out among processes add up to what the user said."""

from __future__ import annotations

import pytest

from embedwire import EmbeddingClient, InputError, RateLimit
from embedwire._queue.usage import Usage, summed
from embedwire._settings.sharing import most_parts, share_of


@pytest.mark.parametrize(("whole", "parts"), [(8, 2), (8, 3), (7, 7), (1, 1), (100, 9)])
def test_shares_add_up(whole: int, parts: int) -> None:
    """The shares of all processes are the whole, and differ by one at most."""
    client = EmbeddingClient(
        "http://h", concurrency=whole, rate_limit=RateLimit(texts=whole, per_second=whole)
    )
    shares = [share_of(client.__getstate__(), parts, index) for index in range(parts)]
    for found in (
        [share.form.concurrency or 0 for share in shares],
        [share.query_form.concurrency or 0 for share in shares],
        [(share.form.rate and share.form.rate.texts) or 0 for share in shares],
        [(share.form.rate and share.form.rate.per_second) or 0 for share in shares],
    ):
        assert sum(found) == whole
        assert max(found) - min(found) <= 1


def test_what_was_not_said_is_not_shared() -> None:
    """Sizes that find themselves are left alone, and so is all else."""
    settings = EmbeddingClient("http://h", model="m", dimensions=4).__getstate__()
    assert most_parts(settings) is None
    assert share_of(settings, 100, 99) == settings


def test_too_little_to_share_is_told() -> None:
    """Fewer requests than processes cannot be shared out; the message says how many would do."""
    settings = EmbeddingClient("http://h", concurrency=8, rate_limit=RateLimit(per_second=2)).__getstate__()
    assert most_parts(settings) == 2
    with pytest.raises(
        InputError, match=r"rate_limit\.per_second=2 cannot be shared out among 4 .* at most 2 of"
    ):
        share_of(settings, 4, 0)


def test_usages_add_up() -> None:
    """What several clients had embedded is added up; tokens that none told are none."""
    one, other = EmbeddingClient("http://h").usage(), EmbeddingClient("http://h").usage()
    assert summed([one, other]).tokens is None
    assert summed([]).texts == 0
    first = Usage(
        texts=3,
        characters=30,
        tokens=7,
        requests=1.5,
        repeats=0.5,
        seconds=1.0,
        truncated=1,
        averaged=2,
        cached=3,
        since=one.since,
    )
    total = summed([other, first, first])
    assert (total.texts, total.characters, total.tokens, total.requests) == (6, 60, 14, 3.0)
    assert (total.repeats, total.seconds, total.truncated, total.averaged, total.cached) == (
        1.0,
        2.0,
        2,
        4,
        6,
    )
    assert total.since == one.since
