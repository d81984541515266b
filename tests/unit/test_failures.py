"""What went wrong → what is done about it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire import (
    AuthenticationFailed,
    BadReply,
    ConnectionFailed,
    RequestError,
    RequestTimeout,
    ServerRefused,
    ServerUnavailable,
    TextRefused,
)
from embedwire._http.failures import judge
from embedwire._http.records import Action
from embedwire._http.verdicts import Context, Unusable
from embedwire._http.wire import Break, Broken, Reply
from embedwire.testing import Answer
from tests.unit.replies import ALIVE, LATE, NEW, RESENT, SAME, reply, says, scripted

WORDS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.text(max_size=9),
    st.sampled_from(["batch of at most 9", "input (5 tokens) current batch size: 4", "Loading model"]),
)
FIELDS = ["error", "message", "detail", "msg", "type", "code", "error_type", "n_ctx", "n_prompt_tokens"]


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4))


class TestTable:
    """Each failure has its action and its exception."""

    @pytest.mark.parametrize(
        ("how", "reused", "seen", "action", "error"),
        [
            (Break.NAME, False, NEW, Action.GIVE_UP, ConnectionFailed),
            (Break.NAME, False, ALIVE, Action.WAIT, ConnectionFailed),
            (Break.REFUSED, False, NEW, Action.RETRY, ConnectionFailed),
            (Break.REFUSED, False, ALIVE, Action.WAIT, ConnectionFailed),
            (Break.CONNECT_TIMEOUT, False, NEW, Action.GIVE_UP, ConnectionFailed),
            (Break.CONNECT_TIMEOUT, False, ALIVE, Action.RETRY, ConnectionFailed),
            (Break.TLS, False, NEW, Action.GIVE_UP, ConnectionFailed),
            (Break.TLS, False, ALIVE, Action.GIVE_UP, ConnectionFailed),
            (Break.CLOSED, False, NEW, Action.RETRY, ConnectionFailed),
            (Break.CLOSED, False, ALIVE, Action.RETRY, ConnectionFailed),
            (Break.CLOSED, True, ALIVE, Action.RESEND, ConnectionFailed),
            (Break.CLOSED, True, RESENT, Action.RETRY, ConnectionFailed),
            (Break.CUT, False, ALIVE, Action.RETRY, ConnectionFailed),
            (Break.CUT, True, ALIVE, Action.RETRY, ConnectionFailed),
            (Break.READ_TIMEOUT, False, ALIVE, Action.SPLIT, RequestTimeout),
            (Break.READ_TIMEOUT, True, ALIVE, Action.SPLIT, RequestTimeout),
            (Break.READ_TIMEOUT, False, LATE, Action.GIVE_UP, RequestTimeout),
            (Break.TOTAL_TIMEOUT, False, NEW, Action.SPLIT, RequestTimeout),
            (Break.TOTAL_TIMEOUT, False, LATE, Action.GIVE_UP, RequestTimeout),
            (Break.NOT_HTTP, False, NEW, Action.GIVE_UP, BadReply),
            (Break.NOT_HTTP, False, ALIVE, Action.GIVE_UP, BadReply),
            (Break.TOO_LARGE, False, ALIVE, Action.GIVE_UP, BadReply),
            (Break.COMPRESSED, False, ALIVE, Action.GIVE_UP, BadReply),
        ],
    )
    def test_no_reply(
        self, how: Break, reused: bool, seen: Context, action: Action, error: type[RequestError]
    ) -> None:
        """A request that ended without a reply has an action by how it ended and what was seen before."""
        verdict = judge(Broken(how=how, reused=reused, detail="the system's words"), seen)
        assert (verdict.action, verdict.fault.error) == (action, error)
        assert verdict.fault.what == f"{how.value} (the system's words)"
        assert verdict.fault.status is None

    def test_every_end_without_a_reply_has_a_row(self) -> None:
        """No way to end is forgotten."""
        for how in Break:
            fault = judge(Broken(how=how), NEW).fault
            assert fault.what == how.value
            assert fault.cure.endswith(".")

    @pytest.mark.parametrize(
        ("failure", "seen", "action", "error"),
        [
            (
                says(401, "Invalid API Key", "authentication_error"),
                ALIVE,
                Action.GIVE_UP,
                AuthenticationFailed,
            ),
            (reply(401), ALIVE, Action.GIVE_UP, AuthenticationFailed),
            (reply(403), ALIVE, Action.GIVE_UP, AuthenticationFailed),
            (reply(404), ALIVE, Action.GIVE_UP, ServerRefused),
            (reply(405), ALIVE, Action.GIVE_UP, ServerRefused),
            (
                says(501, "Start it with `--embeddings`", "not_supported_error"),
                SAME,
                Action.GIVE_UP,
                ServerRefused,
            ),
            *[
                (reply(status, b"", {"location": "/"}), ALIVE, Action.GIVE_UP, ServerRefused)
                for status in (300, 301, 302, 303, 304, 307, 308)
            ],
            (reply(402), ALIVE, Action.GIVE_UP, ServerRefused),
            (reply(409), ALIVE, Action.GIVE_UP, ServerRefused),
            (reply(418), ALIVE, Action.GIVE_UP, ServerRefused),
            # the text, or the request as a whole
            (says(400, "Pooling type 'none' is not OAI compatible"), ALIVE, Action.GIVE_UP, ServerRefused),
            (scripted(Answer.exceed_context(600, 512)), ALIVE, Action.SPLIT, TextRefused),
            (scripted(Answer.too_large(600, 512)), NEW, Action.SPLIT, TextRefused),
            (scripted(Answer.too_large(600, 512)), SAME, Action.SPLIT, TextRefused),
            (
                reply(500, {"error": "failed to encode response: json: unsupported value: NaN"}),
                NEW,
                Action.SPLIT,
                TextRefused,
            ),
            (says(400, "This model's maximum context length is 8192 tokens"), NEW, Action.SPLIT, TextRefused),
            (reply(413), ALIVE, Action.SPLIT, TextRefused),
            (reply(422, {"detail": [{"msg": "Field required"}]}), ALIVE, Action.GIVE_UP, ServerRefused),
            (reply(422, {"detail": [{"msg": "Bad value"}]}), ALIVE, Action.SPLIT, TextRefused),
            # too much
            (scripted(Answer.throttled()), ALIVE, Action.THROTTLE, ServerUnavailable),
            (scripted(Answer.throttled(5)), SAME, Action.THROTTLE, ServerUnavailable),
            (
                says(429, "You exceeded your quota", "insufficient_quota"),
                ALIVE,
                Action.GIVE_UP,
                ServerRefused,
            ),
            (says(429, "Over", "x", code="insufficient_quota"), ALIVE, Action.GIVE_UP, ServerRefused),
            (reply(503), ALIVE, Action.THROTTLE, ServerUnavailable),
            (says(503, "overloaded"), SAME, Action.THROTTLE, ServerUnavailable),
            (scripted(Answer.loading()), NEW, Action.WAIT, ServerUnavailable),
            (scripted(Answer.loading()), SAME, Action.WAIT, ServerUnavailable),
            # passing, until it is the same again
            (reply(500), ALIVE, Action.RETRY, ServerUnavailable),
            (reply(500), SAME, Action.SPLIT, ServerUnavailable),
            *[
                (reply(status), seen, Action.RETRY, ServerUnavailable)
                for status in (424, 425, 507, 520)
                for seen in (ALIVE, SAME)
            ],
            # what stands in front of a server that was seen before: waited for, as it may be restarted
            *[(reply(status), ALIVE, Action.WAIT, ServerUnavailable) for status in (502, 521, 522, 523, 530)],
            (
                reply(503, b"<html><title>503 Service Unavailable</title>"),
                ALIVE,
                Action.WAIT,
                ServerUnavailable,
            ),
            *[(reply(status), ALIVE, Action.WAIT, ServerUnavailable) for status in (408, 504, 524)],
            *[(reply(status), NEW, Action.SPLIT, ServerUnavailable) for status in (408, 504, 524)],
            (reply(502), NEW, Action.RETRY, ServerUnavailable),
            (reply(407), ALIVE, Action.GIVE_UP, ServerRefused),
            # no failure by its number, and yet nothing to read
            (reply(204), ALIVE, Action.GIVE_UP, BadReply),
        ],
    )
    def test_replies(self, failure: Reply, seen: Context, action: Action, error: type[RequestError]) -> None:
        """A reply has an action by its status and its words; the status is on record."""
        verdict = judge(failure, seen)
        assert (verdict.action, verdict.fault.error) == (action, error)
        assert verdict.fault.status == failure.status
        assert str(failure.status) in verdict.fault.what or action is Action.WAIT
        assert verdict.fault.cure.endswith(".")

    @pytest.mark.parametrize(
        ("unusable", "action", "of_text"),
        [
            (Unusable(what="3 vectors for 4 texts"), Action.GIVE_UP, False),
            (Unusable(what="an empty reply", cut=True), Action.RETRY, False),
            (Unusable(what="null instead of a vector", position=2), Action.SPLIT, True),
        ],
    )
    def test_broken_contracts(self, unusable: Unusable, action: Action, of_text: bool) -> None:
        """A broken contract is repeated when cut, split when one text is at fault, else final."""
        verdict = judge(unusable, ALIVE)
        assert (verdict.action, verdict.fault.error) == (action, BadReply)
        assert (verdict.fault.position, verdict.fault.of_text) == (unusable.position, of_text)
        assert unusable.what in verdict.fault.what

    @given(
        st.integers(100, 999),
        st.one_of(st.binary(max_size=80), st.recursive(WORDS, _objects, max_leaves=8)),
        st.dictionaries(
            st.sampled_from(["retry-after", "retry-after-ms", "location"]), st.text(max_size=30), max_size=2
        ),
        st.booleans(),
    )
    def test_any_reply_has_a_verdict(
        self, status: int, body: object, headers: dict[str, str], same: bool
    ) -> None:
        """No reply, however strange, is without a verdict."""
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        verdict = judge(reply(status, encoded, headers), Context(same=same))
        assert issubclass(verdict.fault.error, RequestError)
        assert len(verdict.fault.words) <= 300


class TestWordsOfServers:
    """What a server tells in words is used."""

    @pytest.mark.parametrize(
        ("failure", "tokens", "limit"),
        [
            (scripted(Answer.too_large(600, 512)), 600, 512),
            (scripted(Answer.exceed_context(700, 512)), 700, 512),
            (says(400, "too long", "exceed_context_size_error"), None, None),
            (says(400, "no", "exceed_context_size_error", n_prompt_tokens="700", n_ctx=None), None, None),
        ],
    )
    def test_tokens_and_limit(self, failure: Reply, tokens: int | None, limit: int | None) -> None:
        """Where the server tells a text's tokens and its limit, the error has both, and the cure."""
        fault = judge(failure, NEW).fault
        assert (fault.tokens, fault.limit, fault.of_text) == (tokens, limit, True)
        if tokens:
            assert f"the text has {tokens} tokens and the server takes {limit}" in fault.what
            assert "-c, -b and -ub" in fault.cure

    @pytest.mark.parametrize("status", [400, 413, 422])
    @pytest.mark.parametrize(
        ("message", "cap"),
        [
            ("batch size 64 > maximum allowed batch size 32", 32),
            ("Value error, batch size is invalid, it should not be larger than 10.: input.contents", 10),
            ("The number of inputs must not exceed 64", 64),
            ("input array may not exceed 2048 items", 2048),
            ("invalid request: total number of texts must be at most 96 - received 100", 96),
            ("'input' list must have less than or equal to 128 items", 128),
            ("max batch size is 25", 25),
            ("Too many documents: up to 50 are allowed", 50),
            ("batch of at most 0", None),
            ("batch of at most 99999999", None),
            ("the batch is broken", None),
            ("temperature must be at most 2", None),
            ("", None),
        ],
    )
    def test_batch_cap(self, message: str, cap: int | None, status: int) -> None:
        """The most texts that a server takes are read from its refusal."""
        fault = judge(reply(status, {"error": message, "error_type": "Validation"}), ALIVE).fault
        assert fault.max_texts == cap

    @pytest.mark.parametrize(
        "message",
        [
            "the number of tokens in each of the texts must be at most 512 tokens",
            "input array items must not exceed 4000 characters",
        ],
    )
    def test_a_limit_of_tokens_is_no_batch_cap(self, message: str) -> None:
        """A limit in tokens or characters is not taken for one in texts."""
        assert judge(says(400, message), ALIVE).fault.max_texts is None

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"error": {"message": "no  luck\n today", "type": "x"}}, "no luck today"),
            ({"error": "model not found"}, "model not found"),
            ({"message": "batch too long", "code": 422, "type": "Validation"}, "batch too long"),
            ({"object": "error", "message": "vLLM's way"}, "vLLM's way"),
            (
                {"detail": [{"loc": ["body", "input"], "msg": "Field required", "input": "SECRET"}]},
                "Field required",
            ),
            ({"detail": "Not Found"}, "Not Found"),
            ({"error": {"message": None}}, ""),
            ({"error": None}, ""),
            ({"error": 5}, ""),
            ([], ""),
            (b"<html><title>502 Bad\nGateway</title><h1>nginx</h1></html>", "502 Bad Gateway"),
            (b"", ""),
            ({"error": {"message": "x" * 1000}}, "x" * 299 + "…"),
        ],
    )
    def test_message_in_every_shape(self, body: object, words: str) -> None:
        """The message is found in each server's shape of error, in one line, 300 characters at most."""
        assert judge(reply(502, body), ALIVE).fault.words == words
