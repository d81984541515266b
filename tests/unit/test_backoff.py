"""After which pause a request is sent again."""

from __future__ import annotations

import email.utils
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire import RetryPolicy
from embedwire._http.backoff import delay, retry_after
from embedwire._http.failures import judge
from embedwire._http.records import Action
from tests.unit.replies import NEW, reply


def always(number: float) -> Callable[[], float]:
    """No chance: the same number each time."""
    return lambda: number


class TestRetryAfter:
    """What a server asks for is understood, within reason."""

    NOW = 1_800_000_000.0

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry-after": "0"}, 0),
            ({"retry-after": "2"}, 2),
            ({"retry-after": " 2 "}, 2),
            ({"retry-after": "1.5"}, 1.5),
            ({"retry-after": "86400"}, 86_400),
            ({"retry-after-ms": "1500"}, 1.5),
            ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
            ({"retry-after-ms": "soon", "retry-after": "3"}, 3),
            ({"retry-after": email.utils.formatdate(NOW + 30, usegmt=True)}, 30),
            ({"retry-after": email.utils.formatdate(NOW - 30, usegmt=True)}, 0),
            # absurd
            ({"retry-after": ""}, None),
            ({"retry-after": "soon"}, None),
            ({"retry-after": "-1"}, None),
            ({"retry-after": "nan"}, None),
            ({"retry-after": "inf"}, None),
            ({"retry-after": "1e999"}, None),
            ({"retry-after": "9" * 5000}, None),
            ({"retry-after": "86401"}, None),
            ({"retry-after-ms": "-5"}, None),
            ({"retry-after": email.utils.formatdate(NOW + 86_500, usegmt=True)}, None),
            ({"retry-after": "Mon, 01 Jan 99999 00:00:00 GMT"}, None),
            ({"retry-after": "Mon, 01 Jan 2024 00:00:00 +99999999999"}, None),
            ({"retry-after": "Mon, 32 Jan 2024 25:61:61 GMT"}, None),
        ],
    )
    def test_forms(self, headers: dict[str, str], seconds: float | None) -> None:
        """Seconds, milliseconds and dates are understood; what is absurd is ignored."""
        assert retry_after(headers, now=lambda: self.NOW) == seconds

    def test_is_on_the_fault(self) -> None:
        """The verdict carries it, whatever the status."""
        assert judge(reply(429, b"", {"retry-after": "7"}), NEW).fault.retry_after == 7
        assert judge(reply(503, b"", {"retry-after-ms": "7"}), NEW).fault.retry_after == 0.007

    @given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text()))
    def test_never_raises(self, headers: dict[str, str]) -> None:
        """Whatever stands there is a number of seconds up to a day, or nothing."""
        seconds = retry_after(headers)
        assert seconds is None or 0 <= seconds <= 86_400


class TestDelay:
    """A pause is bounded, random, and never shorter than asked for."""

    def test_doubles(self) -> None:
        """Without jitter the pauses are exactly base times 1, 2, 4."""
        policy = RetryPolicy(base=1, jitter=False)
        assert [delay(policy, Action.RETRY, repeat, None) for repeat in (1, 2, 3)] == [1, 2, 4]

    def test_throttled_pauses_are_longer(self) -> None:
        """After 429 the first pause is `throttled_base`."""
        policy = RetryPolicy(base=0.05, throttled_base=3, multiplier=10, cap=100, jitter=False)
        assert [delay(policy, Action.THROTTLE, repeat, None) for repeat in (1, 2, 3)] == [3, 30, 100]

    def test_jitter_is_full(self) -> None:
        """With jitter a pause is anything from 0 to the computed one."""
        policy = RetryPolicy(base=8)
        assert [delay(policy, Action.RETRY, 1, None, rand) for rand in map(always, (0, 0.25, 1))] == [0, 2, 8]

    def test_what_the_server_asks_replaces_it(self) -> None:
        """A Retry-After is waited for in full, and at most a tenth longer; without jitter exactly."""
        policy = RetryPolicy(base=50)
        assert [delay(policy, Action.RETRY, 9, 10, rand) for rand in map(always, (0, 1))] == [10, 11]
        assert delay(RetryPolicy(jitter=False), Action.THROTTLE, 1, 10) == 10

    def test_no_time_asked_for_is_no_reason_to_hurry(self) -> None:
        """A Retry-After of 0, or a date that is past by the server's clock, leaves the usual pause."""
        assert delay(RetryPolicy(jitter=False), Action.THROTTLE, 2, 0) == 2

    @given(
        st.builds(
            RetryPolicy,
            attempts=st.integers(1, 10**6),
            base=st.floats(0, 1e300),
            throttled_base=st.floats(0, 1e300),
            multiplier=st.one_of(st.floats(1, 100), st.integers(1, 100)),
            cap=st.floats(0, 1e300),
            jitter=st.booleans(),
        ),
        st.sampled_from([Action.RETRY, Action.THROTTLE]),
        st.integers(1, 10**6),
        st.floats(0, 1),
    )
    def test_is_bounded(self, policy: RetryPolicy, action: Action, repeat: int, at: float) -> None:
        """No policy and no number of repeats gives a pause above the cap, below 0, or no number."""
        assert 0 <= delay(policy, action, repeat, None, lambda: at) <= policy.cap
