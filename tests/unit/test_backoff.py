"""After which pause a request is sent again."""

from __future__ import annotations

import email.utils
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire import RetryPolicy
from embedwire._http.backoff import DAY, delay, hint_in_words, retry_after
from embedwire._http.failures import judge
from embedwire._http.records import Action
from tests.unit.replies import NEW as NEW_SERVER
from tests.unit.replies import reply, says


def always(number: float) -> Callable[[], float]:
    """No chance: the same number each time."""
    return lambda: number


NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
USED_UP = {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}


def formatted(seconds: float) -> str:
    """A moment so many seconds from now, as HTTP has it."""
    return email.utils.formatdate(NOW + seconds, usegmt=True)


class TestRetryAfter:
    """What a server asks for is understood, within reason."""

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
            ({"retry-after": formatted(30)}, 30),
            ({"retry-after": formatted(-30)}, 0),
            ({"Retry-After": "4s"}, 4),
            ({"retry-after": "1m30s"}, 90),
            ({"retry-after": "5 seconds"}, 5),
            ({"retry-after": "500ms"}, 0.5),
            ({"retry-after": formatted(30), "date": formatted(-10)}, 40),  # by the server's own clock
            # when a limit is reset, where nothing else says how long to wait
            ({"x-ratelimit-reset-requests": "1s"}, 1),
            ({"x-ratelimit-reset-tokens": "6m0s"}, 360),
            ({"X-RateLimit-Reset-Tokens": "20ms"}, 0.02),
            ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 1),
            ({**USED_UP, "x-ratelimit-remaining-requests": "3", "x-ratelimit-remaining-tokens": "0"}, 360),
            ({**USED_UP, "x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "9"}, 1),
            ({**USED_UP, "x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "0"}, 360),
            ({**USED_UP, "retry-after": "2"}, 2),
            ({"x-ratelimit-reset": "7"}, 7),
            ({"x-ratelimit-reset": str(int(NOW) + 7)}, 7),
            ({"x-ratelimit-reset": str(int(NOW) * 1000 + 7500)}, 7.5),
            ({"x-ratelimit-reset-after": "1.5"}, 1.5),
            ({"x-ratelimit-reset-ms": "1500"}, 1.5),
            ({"x-rate-limit-reset": "9"}, 9),
            ({"ratelimit-reset": "5"}, 5),
            ({"anthropic-ratelimit-requests-reset": "2027-01-15T08:00:09Z"}, 9),
            ({"ratelimit": "limit=10, remaining=0, reset=7"}, 7),
            ({"ratelimit": '"burst";r=0;t=5, "daily";r=9;t=600'}, 5),
            ({"ratelimit": '"default";t=3'}, 3),
            ({"ratelimit-policy": '"default";q=100;w=10'}, None),
            ({"x-ratelimit-limit-requests": "60"}, None),
            # absurd
            ({"x-ratelimit-reset": str(int(NOW) + 100_000)}, None),
            ({"x-ratelimit-reset-requests": "soon"}, None),
            ({"retry-after": "5 apples"}, None),
            ({"retry-after": ""}, None),
            ({"retry-after": "soon"}, None),
            ({"retry-after": "-1"}, None),
            ({"retry-after": "nan"}, None),
            ({"retry-after": "inf"}, None),
            ({"retry-after": "1e999"}, None),
            ({"retry-after": "9" * 5000}, None),
            ({"retry-after": "86401"}, None),
            ({"retry-after-ms": "-5"}, None),
            ({"retry-after": formatted(86_500)}, None),
            ({"retry-after": "Mon, 01 Jan 99999 00:00:00 GMT"}, None),
            ({"retry-after": "Mon, 01 Jan 2024 00:00:00 +99999999999"}, None),
            ({"retry-after": "Mon, 32 Jan 2024 25:61:61 GMT"}, None),
        ],
    )
    def test_forms(self, headers: dict[str, str], seconds: float | None) -> None:
        """Numbers, durations, dates and the resets of limits are understood; what is absurd is ignored."""
        assert retry_after(headers, now=lambda: NOW) == pytest.approx(seconds)

    def test_is_on_the_fault(self) -> None:
        """The verdict carries it, whatever the status."""
        assert judge(reply(429, b"", {"retry-after": "7"}), NEW_SERVER).fault.retry_after == 7
        assert judge(reply(503, b"", {"retry-after-ms": "7"}), NEW_SERVER).fault.retry_after == 0.007

    @pytest.mark.parametrize(
        ("words", "seconds"),
        [
            (
                "Rate limit reached for m on tokens per min (TPM): Limit 40000, Used 39500. Please try again in 4.2s.",
                4.2,
            ),
            (
                "You have exceeded the call rate limit of your S0 pricing tier. Please retry after 5 seconds.",
                5,
            ),
            ("Please try again in 6m0s. Visit https://example.test to learn more.", 360),
            ("Please try again in 20ms.", 0.02),
            ("You can retry in 3 minutes", 180),
            ("Please retry in 27.123s.", 27.123),
            ("Your quota will reset after 27s.", 27),
            ("Too many requests, please try again after 1 minute and 30 seconds", 90),
            ("try again in about 500 milliseconds", 0.5),
            ("Please wait 10 seconds before the next request", 10),
            ("Retry-After: 12", 12),
            ('{"retry_after": 2.5}', 2.5),
            ("try again in 1 day", DAY),
            # not said, or absurd
            ("", None),
            ("Try again later.", None),
            ("Limit: 3 requests per 60 seconds", None),
            ("retry attempt 3 of 5 failed", None),
            ("You may retry after 2027-01-15", None),
            ("please wait 1,000,000 requests", None),
            ("retry in 5%", None),
            ("try again in 5 days", None),
        ],
    )
    def test_in_words(self, words: str, seconds: float | None) -> None:
        """What a message says is understood where the headers say nothing, and counts more than a limit's reset."""
        assert hint_in_words(words) == retry_after({}, words) == pytest.approx(seconds)
        assert retry_after({"retry-after": "3"}, words) == 3
        assert retry_after(USED_UP, words) == pytest.approx(1 if seconds is None else seconds)

    def test_in_words_is_on_the_fault(self) -> None:
        """The verdict carries what the message said."""
        assert judge(says(429, "Please try again in 4.2s."), NEW_SERVER).fault.retry_after == 4.2

    @given(
        st.dictionaries(
            st.sampled_from(
                ["retry-after", "retry-after-ms", "date", "ratelimit", "RateLimit-Reset"]
                + [
                    f"x-ratelimit-{what}-{of}"
                    for what in ("reset", "remaining")
                    for of in ("tokens", "requests")
                ]
            ),
            st.one_of(st.text(), st.from_regex(r"[0-9]+(ms|s|m|h|T|-|;r=0;t=)?[0-9.]*[sZ]?", fullmatch=True)),
        ),
        st.one_of(
            st.text(), st.from_regex(r"(try again|retry) (in|after) [0-9]+[. ms0-9d]*", fullmatch=True)
        ),
    )
    def test_never_raises(self, headers: dict[str, str], words: str) -> None:
        """Whatever stands there is a number of seconds up to a day, or nothing."""
        seconds = retry_after(headers, words)
        assert seconds is None or 0 <= seconds <= DAY


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

    def test_throttled_pauses_have_a_floor(self) -> None:
        """After 429 a pause is never shorter than computed, and with jitter up to half as much again."""
        chances = list(map(always, (0, 0.5, 1)))
        policy = RetryPolicy()
        for repeat, pauses in ((1, [1, 1.25, 1.5]), (2, [2, 2.5, 3]), (5, [16, 20, 20]), (99, [20, 20, 20])):
            assert [delay(policy, Action.THROTTLE, repeat, None, rand) for rand in chances] == pauses

    def test_what_is_asked_for_in_vain_grows(self) -> None:
        """A server that asks for 0.1 s again and again gets longer pauses, from the second time on."""
        policy = RetryPolicy(jitter=False)
        pauses = [delay(policy, Action.THROTTLE, repeat, 0.1) for repeat in (1, 2, 3, 4, 99)]
        assert pauses == [0.1, 1, 2, 4, 20]
        assert delay(policy, Action.THROTTLE, 3, 30) == 30

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
