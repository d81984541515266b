"""What users configure with, and what is kept of it, are values; secrets among them are not shown."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from embedwire import BatchLimits, EmbeddingClient, InputError, Prompts, RateLimit, RetryPolicy, Timeouts
from embedwire._settings.secret import Secret
from tests.unit.arguments import URL, kept

KEY = "sk-never-to-be-seen"
NAN, INF = float("nan"), float("inf")


class TestSecret:
    """A secret shows itself only when asked to."""

    def test_is_not_shown(self) -> None:
        """No repr, str or format has the value."""
        secret = Secret(KEY)
        shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", "%s %r" % (secret, secret)]  # noqa: UP031 - the promise
        shown += [f"{secret:}", str([secret]), str({"key": secret}), ascii(secret)]
        assert not any(KEY in text for text in shown)
        assert not hasattr(secret, "__dict__")

    def test_is_equal_by_value_and_survives_a_pickle(self) -> None:
        """Equal secrets are equal keys of a dict, before and after a pickle."""
        again = pickle.loads(pickle.dumps(Secret(KEY)))
        assert again == Secret(KEY)
        assert again.reveal() == KEY
        assert {again: 1}[Secret(KEY)] == 1
        assert Secret("other") != again
        assert again != KEY

    def test_settings_show_no_secret(self) -> None:
        """Key, header values and the proxy's password are in no repr of a client or of its settings."""
        secrets = {"api_key": KEY, "headers": {"X-Token": KEY}, "proxy": f"http://me:{KEY}@proxy:3128"}
        client, settings = EmbeddingClient(URL, **secrets), kept(**secrets)  # type: ignore[arg-type]
        assert KEY not in repr(client) + repr(settings) + repr(settings.fleet)


RECORDS = [
    Timeouts(total=1, connect=2, sock_read=3),
    RetryPolicy(attempts=4, base=1, jitter=False),
    BatchLimits(texts=7, chars=1000),
    Prompts(query="q: ", document="d: "),
    RateLimit(requests=3, texts=5, chars=7, per_second=2),
]


class TestRecords:
    """What users configure with are values."""

    @pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
    def test_are_frozen_values(self, record: Any) -> None:
        """A record cannot be changed, is equal to one of the same values, and goes through a pickle."""
        names = [field.name for field in dataclasses.fields(record)]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, names[0], None)
        same = type(record)(**{name: getattr(record, name) for name in names})
        assert same == record
        assert hash(same) == hash(record)
        assert type(record)() != record
        assert pickle.loads(pickle.dumps(record)) == record
        assert not hasattr(record, "__dict__")

    @pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
    def test_are_keyword_only(self, record: Any) -> None:
        """No value of a record goes by position."""
        with pytest.raises(TypeError, match="positional"):
            type(record)(1)

    @pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
    def test_say_what_each_value_is(self, record: Any) -> None:
        """Each field of a record is described in its docstring."""
        described = re.findall(r"^    (\w+):", inspect.getdoc(type(record)) or "", re.MULTILINE)
        assert described == [field.name for field in dataclasses.fields(record)]

    @pytest.mark.parametrize(
        ("record", "field", "values", "name"),
        [
            (Timeouts, "total", [0, -1, NAN, INF, True, "5", [5]], "timeout.total"),
            (Timeouts, "connect", [0, -0.1, False], "timeout.connect"),
            (Timeouts, "sock_read", [0, "1"], "timeout.sock_read"),
            (RetryPolicy, "attempts", [0, -1, True, 2.0, None, "3"], "max_retries.attempts"),
            (RetryPolicy, "base", [-1, NAN, INF, None, True, "1"], "max_retries.base"),
            (RetryPolicy, "throttled_base", [-1, None], "max_retries.throttled_base"),
            (
                RetryPolicy,
                "multiplier",
                [0, 0.5, -2, 101, NAN, INF, True, None, "2"],
                "max_retries.multiplier",
            ),
            (RetryPolicy, "cap", [-1, None, INF], "max_retries.cap"),
            (RetryPolicy, "retry_after_cap", [-1, None, NAN], "max_retries.retry_after_cap"),
            (RetryPolicy, "jitter", [0, None, "no"], "max_retries.jitter"),
            (BatchLimits, "texts", [0, -1, True, 5.0, "5"], "batch_size.texts"),
            (BatchLimits, "chars", [0, False, 1e3], "batch_size.chars"),
            (RateLimit, "requests", [0, -1, True, 5.0, "5"], "rate_limit.requests"),
            (RateLimit, "texts", [0, False], "rate_limit.texts"),
            (RateLimit, "chars", [0, 1e3], "rate_limit.chars"),
            (RateLimit, "per_second", [0, 0.5], "rate_limit.per_second"),
            (RateLimit, "per_minute", [-3, True], "rate_limit.per_minute"),
            (Prompts, "query", [None, 5, b"q"], "prompts.query"),
            (Prompts, "document", [None, ["d"]], "prompts.document"),
        ],
    )
    def test_check_themselves(self, record: Any, field: str, values: list[Any], name: str) -> None:
        """A bad value is an InputError that names the argument it stands in."""
        for value in values:
            with pytest.raises(InputError, match=re.escape(name)):
                record(**{field: value})

    def test_zero_and_none_mean_what_they_say(self) -> None:
        """No pause is 0; no limit is None."""
        assert Timeouts(total=None, connect=None, sock_read=None).total is None
        assert RetryPolicy(base=0, throttled_base=0, cap=0, retry_after_cap=0).base == 0
        assert BatchLimits(texts=None, chars=None).texts is None

    @pytest.mark.parametrize(
        ("argument", "simple", "record"),
        [
            ("timeout", 7, Timeouts(total=7, connect=7, sock_read=7)),
            ("timeout", None, Timeouts(total=None, sock_read=None)),
            (
                "timeout",
                {"total": 7, "connect": 1, "sock_read": 2},
                Timeouts(total=7, connect=1, sock_read=2),
            ),
            ("max_retries", 0, RetryPolicy(attempts=1)),
            ("max_retries", 2, RetryPolicy()),
            ("max_retries", {"attempts": 5}, RetryPolicy(attempts=5)),
            ("batch_size", 7, BatchLimits(texts=7)),
            ("batch_size", {"texts": None, "chars": 9}, BatchLimits(texts=None, chars=9)),
            ("rate_limit", 600, RateLimit(requests=600)),
            ("rate_limit", {"texts": 9}, RateLimit(texts=9)),
            ("rate_limit", {"per_second": 1}, RateLimit(per_second=1)),
            ("prompts", None, Prompts()),
            ("prompts", "e5", Prompts(query="query: ", document="passage: ")),
            ("prompts", {"query": "q: "}, Prompts(query="q: ")),
            ("ssl", True, None),
        ],
    )
    def test_a_simple_value_means_its_record(self, argument: str, simple: Any, record: Any) -> None:
        """Each knob takes the simple value, its policy object, or the dict that a dump made of it."""
        simple, record = (kept(**{argument: value}) for value in (simple, record))
        assert simple == record
        assert hash(simple) == hash(record)

    def test_an_ssl_context_is_taken(self, tmp_path: Path) -> None:
        """An SSLContext, a path, True and False are all ways to say what to trust."""
        authority = tmp_path / "ca.pem"
        trustme.CA().cert_pem.write_to_path(authority)
        for value in (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), str(authority), False, True, None):
            assert kept(ssl=value).fleet.targets[0].ssl is (None if value is True else value)

    def test_settings_survive_a_pickle(self) -> None:
        """Settings, an explicit key among them, come out of a pickle as they went in."""
        settings = kept(api_key=KEY, headers={"X-A": "b"}, timeout=5)
        assert pickle.loads(pickle.dumps(settings)) == settings
