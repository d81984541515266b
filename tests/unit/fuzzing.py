"""What must hold for any reply whatever, and how right replies are made wrong; for `test_fuzz` and ``fuzz/``.

A reply is judged by `right`, a second decoder: slow, of the standard library alone, and of no line of the first.
"""

from __future__ import annotations

import base64
import copy
import json
import math
import random
import re
import string
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from embedwire._http.failures import judge
from embedwire._http.listing import listed
from embedwire._http.messages import screened, to_error
from embedwire._http.records import Matrix
from embedwire._http.reply import ContractBroken, decode, parse
from embedwire._http.spans import cut_out
from embedwire._http.steps import at_once
from embedwire._http.vectors import near, plausible
from embedwire._http.verdicts import Context
from embedwire._http.wire import Reply
from embedwire._servers.kinds import KINDS
from embedwire.exceptions import RequestError

TEXT = "The patient Kim Min-jun, born in 1971, lives in Busan."
KEY = "sk-0123456789abcdef"
STATUSES = (400, 401, 404, 408, 413, 422, 425, 429, 500, 501, 502, 503, 529, 599, 200, 204, 302, 418, 999)
KNOWN = np.array([0.5, -0.25, 0.125], dtype=np.float32)  # of one text, in decimal


# What must hold


def check(body: bytes, *, count: int, status: int) -> None:
    """Fail unless everything that reads a server's bytes keeps its promise for these.

    Args:
        body: The bytes.
        count: How many texts were sent, if they are a reply.
        status: The HTTP status, if they are a refusal.
    """
    matrix = check_decode(body, count)
    if matrix is not None:
        check_decode(body, count, matrix.shape[1] + 1)
        check_comparison(matrix)
    check_answers(body)
    value = body[:64].decode("latin-1")  # as if it stood in a header
    check_refusal(Reply(status=status, headers={"retry-after": value, "retry-after-ms": value}, body=body))


def check_decode(body: bytes, count: int, width: int | None = None) -> Matrix | None:
    """`decode` gives the right matrix, or refuses what the contract refuses."""
    expected = right(body, count)
    if expected is not None and width not in (None, len(expected[0])):
        expected = None
    broken: ContractBroken | None = None
    try:
        decoded = decode(body, count, width=width, cut=at_once(cut_out(body)))
    except ContractBroken as error:
        broken = error
    if broken is not None:
        assert expected is None or not _is_plain(body), "a right reply was refused"
        assert broken.position is None or 0 <= broken.position < count
        return None
    assert expected is not None, "a wrong reply was taken"
    matrix, reply = decoded.matrix, _frame(body)
    assert decoded.base64 == all(isinstance(item["embedding"], str) for item in reply["data"])
    assert decoded.tokens is None or (type(decoded.tokens) is int and decoded.tokens >= 0)
    assert decoded.model is None or decoded.model == reply["model"]
    assert matrix.dtype == np.float32
    assert matrix.shape == (count, len(expected[0]))
    for got, numbers in zip(matrix.tolist(), expected, strict=True):
        assert all(map(is_rounded, got, numbers)), "a number was changed"
    return matrix


def check_comparison(matrix: Matrix) -> None:
    """`plausible` and `near` say yes to nothing but vectors, and to none that is far from the known one."""
    lengths = [math.hypot(*row) for row in matrix.tolist()]
    if plausible(matrix):
        assert 1e-6 * 0.999 <= max(lengths) <= 1e6 * 1.001
    for row, length in zip(matrix, lengths, strict=True):
        if near(row, KNOWN):
            assert math.dist(row.tolist(), KNOWN.tolist()) <= 0.0501 * length


def check_answers(body: bytes) -> None:
    """What a server tells of itself is sensible numbers and names that can be sent, or nothing."""
    try:
        answer, names = parse(body), listed(body).models
    except ContractBroken:
        return
    for name in names:
        orjson.dumps(name)  # as part of a request
    for kind in KINDS:
        told = kind.read(answer)
        for number in (told.slots, told.context, told.max_texts):
            assert number is None or (type(number) is int and 0 < number < 2**31)


def check_refusal(reply: Reply, secrets: Sequence[str] = (TEXT, KEY)) -> None:
    """A refusal becomes an error: sensible numbers, a message of one short line, and no text or key in it."""
    for seen in (Context(), Context(alive=True, resent=True, timeouts=1, same=True)):
        fault = judge(reply, seen).fault
        assert fault.retry_after is None or 0 <= fault.retry_after <= 86_400
        assert fault.max_texts is None or 0 < fault.max_texts < 1_000_000
        for number in (fault.tokens, fault.limit):
            assert number is None or type(number) is int, "tokens or a limit that is no whole number"
        fault = replace(fault, words=screened(fault.words, secrets))
        error = to_error(fault, attempts=1, server="http://h/v1", index=0, count=1)
        check_message(error, secrets)


def check_message(error: RequestError, secrets: Iterable[str]) -> None:
    """A message is one short line, and repeats no 12 characters of a text or a key."""
    message = str(error)
    assert len(message) < 1000
    assert len(message.splitlines()) == 1
    for secret in secrets:
        windows = (secret[at : at + 12] for at in range(len(secret) - 11))
        assert not any(window in message for window in windows), "the message repeats a text or a key"


# The second decoder

_ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"


def right(body: bytes, count: int) -> list[list[float]] | None:
    """The numbers that each text got, as they stand in the reply; None where the contract refuses it."""
    reply = _frame(body)
    error = reply.get("error")
    if error and not (isinstance(error, dict) and not any(error.values())):
        return None
    data = reply.get("data")
    if not isinstance(data, list) or len(data) != count or not all(isinstance(item, dict) for item in data):
        return None
    indexes = [_index(item.get("index")) for item in data]
    if indexes == [None] * count:
        indexes = list(range(count))
    if indexes.count(None) == 1:
        indexes[indexes.index(None)] = next(iter(set(range(count)) - set(indexes)))
    if sorted(index for index in indexes if isinstance(index, int)) != list(range(count)):
        return None
    given = [item.get("embedding") for item in data]
    if all(isinstance(one, list) and len(one) == 1 and isinstance(one[0], list) for one in given):
        given = [one[0] for one in given]
    rows = {index: _numbers(one) for index, one in zip(indexes, given, strict=True)}
    if not all(rows.values()) or len({len(numbers or []) for numbers in rows.values()}) != 1:
        return None
    return [rows[index] or [] for index in range(count)]


def _frame(body: bytes) -> dict[str, Any]:
    """The object that holds the vectors; llama-server's own endpoint sends its list alone."""
    reply = _parsed(body)
    if isinstance(reply, list) and reply and all(isinstance(item, dict) for item in reply):
        return {"data": reply}
    return reply if isinstance(reply, dict) else {}


def _index(index: Any) -> int | str | None:
    """An index that is a whole number, whatever its type; anything else as a word."""
    if index is None:
        return None
    if isinstance(index, str) and re.fullmatch("[0-9]{1,9}", index):
        return int(index)
    if (
        isinstance(index, (int, float))
        and not isinstance(index, bool)
        and math.isfinite(index)
        and index == int(index)
    ):
        return int(index)
    return "none"


def _parsed(body: bytes) -> Any:
    """The JSON in UTF-8, with Python's NaN and Infinity; None where it is none."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 3000)  # replies may be nested as deep as orjson reads: 1024
    try:
        # An int of 400 digits is beyond any float; Python refuses to read one of 5000.
        return json.loads(
            body.removeprefix(b"\xef\xbb\xbf").decode("utf-8"),
            parse_int=lambda digits: int(digits) if len(digits) < 400 else math.inf,
        )
    except (ValueError, RecursionError):
        return None
    finally:
        sys.setrecursionlimit(limit)


def _numbers(embedding: Any) -> list[float] | None:
    """The numbers of one vector, if each is one that float32 can hold."""
    if isinstance(embedding, str):
        raw = _from_base64(embedding)
        if raw is None or len(raw) % 4:
            return None
        embedding = list(struct.unpack(f"<{len(raw) // 4}f", raw))
    if not isinstance(embedding, list) or not all(type(number) in (int, float) for number in embedding):
        return None
    return embedding if all(_float32(number) is not None for number in embedding) else None


def _from_base64(text: str) -> bytes | None:
    """RFC 4648, with its own alphabet and its padding; the bits that are left over may be any."""
    digits = text.rstrip("=")
    if len(text) % 4 or len(text) - len(digits) > 2 or not set(digits) <= set(_ALPHABET):
        return None
    bits = "".join(f"{_ALPHABET.index(digit):06b}" for digit in digits)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8))


def _float32(number: float) -> float | None:
    try:
        nearest: float = struct.unpack("<f", struct.pack("<f", float(number)))[0]
    except OverflowError:
        return None
    return nearest if math.isfinite(nearest) else None


def is_rounded(got: float, number: float) -> bool:
    """Whether `got` is the number in float32; an int beyond float64's own 53 bits may be rounded once or twice."""
    if type(number) is int and abs(number) > 2**53:
        return math.isclose(got, number, rel_tol=2**-23)
    return got == _float32(number)


def _is_plain(body: bytes) -> bool:
    """Whether it is JSON by the letter, and no deeper than any parser goes."""
    try:
        orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return False
    return not _is_deep(body)


def _is_deep(body: bytes) -> bool:
    """Whether it may be nested deeper than Python's own recursion goes."""
    return body.count(b"[") + body.count(b"{") > 200


# Right replies, and how they become wrong


def packed(row: Sequence[float]) -> str:
    """A vector as base64."""
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def reply(rows: Sequence[Sequence[float]], *, as_base64: bool = False, **fields: Any) -> bytes:
    """A right reply with these vectors, as llama.cpp sends it."""
    data = [
        {"embedding": packed(row) if as_base64 else list(row), "index": index, "object": "embedding"}
        for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return json.dumps({"model": "m", "object": "list", "usage": usage, "data": data, **fields}).encode()


_ROWS = [KNOWN.tolist(), [1.0, 2.0, -3.5], [0.0625, 0.0, 1e-7]]
REPLIES = [reply(_ROWS[:count], as_base64=as_base64) for count in (1, 2, 3) for as_base64 in (False, True)]
REPLIES += [
    reply(_ROWS[:2], error=None, id="embd-1", created=1, model="true NaN 慎乎"),
    b'{"data":[{"index":1,"embedding":[1,2]},{"index":0,"embedding":[3,-4e-1]}]}',
]
OTHER_ANSWERS = [
    b'{"object":"list","data":[{"id":"m","object":"model","meta":{"n_embd":3}}],"models":[{"name":"m"}]}',
    b'{"total_slots":4,"default_generation_settings":{"n_ctx":512,"params":{"top_p":0.95}}}',
    b'{"model_id":"m","max_input_length":512,"max_client_batch_size":32,"version":"1.8"}',
]


def refusals(text: str) -> list[bytes]:
    """What servers say no with, in their own shapes; some quote the text."""
    quoted = json.dumps(text)[1:-1].encode()
    return [
        b'{"error":{"code":500,"message":"input (602 tokens) is too large to process. increase the physical'
        b' batch size (current batch size: 512)","type":"server_error"}}',
        b'{"error":{"code":400,"message":"input is larger than the max context size","n_ctx":256,'
        b'"n_prompt_tokens":302,"type":"exceed_context_size_error"}}',
        b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
        b'{"error":{"message":"cannot embed \'' + quoted + b'\'","type":"x","code":"insufficient_quota"}}',
        b'{"error":"batch size 64 > maximum allowed batch size 32: ' + quoted + b'","error_type":"x"}',
        b'{"object":"error","message":"at most 96 inputs, not ' + quoted + b'","code":400}',
        b'{"detail":[{"loc":["body","input"],"msg":"' + quoted + b'","input":"' + quoted + b'"}]}',
        b"<html>" + quoted + b"</html>",
        quoted,
    ]


HEADERS = [
    *(b"2", b"1.5", b" 0 ", b"Wed, 21 Oct 2026 07:28:00 GMT", b"Wed, 21 Oct 2026 07:28:00 -0000"),
    *(b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994", b"21 Oct 2026 07:28:00 +0900 (KST)"),
]
SEEDS = [*REPLIES, *OTHER_ANSWERS, *refusals(TEXT), *HEADERS]


def mutated(body: bytes, dice: random.Random) -> bytes:
    """Something near to these bytes: as a tree, as tokens or as bytes, changed in one to four places."""
    for _ in range(dice.choice((1, 1, 1, 2, 3, 4))):
        body = dice.choice((_change_tree, _change_tree, _change_token, change_bytes))(body, dice)
    return body


_NAMES = ["data", "index", "embedding", "error", "message", "type", "code", "detail", "id", "n_ctx"]
_ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10**39, 10**999),
    *(0.0, -0.0, 1.0, 0.5, 1e39, 3.4028236e38, 1e-46, math.nan, math.inf, -math.inf),
    *("", "0", "0.5", "NaN", "\ud800", "é", "AAAA", "AAAAAA==", "AAAAAAA=", "AACAfw==", "AADAfw=="),
    *("x" * 5000, packed([1.0, 2.0, 3.0]), KEY, [], {}, [[]], [0.5], [None] * 3, [True] * 3, {"index": 0}),
]
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|[\[\]{},:]')
_ODD_TOKENS = [
    *(b"1e400", b"-1e400", b"1e-400", b"1" * 1000, b"1" * 5000, b"-0", b"1e0", b"01", b"0x1", b"+1", b".5"),
    *(b"true", b"null", b"NaN", b"-Infinity", b'"\\ud800"', b'"NaN"', b"'a'", b"{}", b"[]", b"", b"\x00"),
    *(b"[" * 70 + b"]" * 70, b"[" * 1015 + b"]" * 1015, b'{"a":' * 1015 + b"1" + b"}" * 1015, b"[" * 9000),
]


def _change_tree(body: bytes, dice: random.Random) -> bytes:
    """A field, an item or a number is removed, doubled, moved, renamed, nested or of another type."""
    try:
        root = [None if _is_deep(body) else json.loads(body)]
    except ValueError:
        return change_bytes(body, dice)
    places = _places(root)
    (holder, key), (source, there) = dice.choice(places), dice.choice(places)
    value, other = holder[key], copy.deepcopy(source[there])
    change = dice.randrange(7)
    if change == 0:
        del holder[key]
    elif change == 1:
        holder[key] = dice.choice(_ODD)
    elif change == 2:
        source[there], holder[key] = copy.deepcopy(value), other
    elif change == 3 and isinstance(holder, list):
        holder.insert(key, other)
    elif change == 3:
        holder[dice.choice(_NAMES)] = other
    elif change == 4:
        holder[key] = [value] * dice.choice((1, 2))
    elif isinstance(value, str):
        at, new = dice.randrange(len(value) + 1), dice.choice(["", "=", "\n", " ", "-", "A", "é"])
        holder[key] = value[:at] + new + value[at + dice.randrange(2) :]
    elif isinstance(value, (int, float)):
        holder[key] = dice.choice([value + 1, -value, str(value)])
    text = json.dumps(root[0] if root else None, ensure_ascii=dice.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree where a value stands, as the container and the key in it."""
    if not isinstance(node, (dict, list)):
        return []
    inner = list(node.items() if isinstance(node, dict) else enumerate(node))
    return [(node, key) for key, _ in inner] + [place for _, value in inner for place in _places(value)]


def _change_token(body: bytes, dice: random.Random) -> bytes:
    """A token is removed, doubled, or another: numbers and nestings that no tree of Python's can write."""
    spans = [match.span() for match in _TOKEN.finditer(body)] or [(0, 0)]
    start, end = dice.choice(spans)
    old = body[start:end]
    return body[:start] + dice.choice([b"", old + old, *_ODD_TOKENS]) + body[end:]


def change_bytes(body: bytes, dice: random.Random) -> bytes:
    """Bytes are flipped, cut off, left out, doubled, added, or those of another encoding."""
    start, end = sorted((dice.randrange(len(body) + 1), dice.randrange(len(body) + 1)))
    change = dice.randrange(6)
    if change == 0:
        return body[:start]
    if change == 1:
        return body[:start] + body[end:]
    if change == 2:
        return body[:end] + body[start:]
    if change == 3:
        return body[:start] + dice.randbytes(dice.randrange(1, 5)) + body[start:]
    if change == 4 and body:
        at = min(start, len(body) - 1)
        return body[:at] + bytes([body[at] ^ 1 << dice.randrange(8)]) + body[at + 1 :]
    encoding = dice.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "utf-8-sig", "utf-7", "latin-1"])
    return body.decode("utf-8", "replace").encode(encoding, "replace")
