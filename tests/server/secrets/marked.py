"""A key, a header's value, a proxy's password and a text, the doors that they go in by, and where they may show."""

from __future__ import annotations

import base64
import pickle
import re
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from embedwire import EmbeddingClient, RetryPolicy, SharedEmbeddingClient
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer, Request

KEY = "sk-marked-0123456789abcdef"
HEADER = "marked-header-fedcba9876543210"
PASSWORD = "marked-password-5566778899"
TEXT = "The patient is called Kim, born 1971"
QUERY = "marked-query-112233445566"
USER = f"user:{PASSWORD}"
NOBODY = "http://127.0.0.1:9"
SECRETS = {
    "key": KEY,
    "header": HEADER,
    "password": PASSWORD,
    "query": QUERY,
    "password in base64": base64.b64encode(USER.encode()).decode(),
}
TEXTS = [f"{TEXT}, file {number}" for number in range(3)]
KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (EmbeddingClient, SharedEmbeddingClient, EmbedwireEmbeddings, EmbedwireEmbedding)
}
DOORS = [
    *(f"EmbeddingClient.{name}" for name in ("embed", "embed_array", "embed_query", "stream")),
    *(f"SharedEmbeddingClient.{name}" for name in ("embed", "embed_array", "embed_query", "stream")),
    *(f"SharedEmbeddingClient.a{name}" for name in ("embed", "embed_array", "embed_query", "stream")),
    *(f"EmbedwireEmbeddings.{a}embed_{name}" for a in ("", "a") for name in ("documents", "query")),
    *(
        f"EmbedwireEmbedding.{a}get_{name}"
        for a in ("", "a")
        for name in ("text_embedding", "query_embedding", "text_embedding_batch")
    ),
]
FOR_ONE_TEXT = ("embed_query", "get_text_embedding", "get_query_embedding")
SYNC_DOORS = [door for door in DOORS if not re.search(r"^EmbeddingClient|\.a", door)]
ASYNC_DOORS = [door for door in DOORS if door not in SYNC_DOORS]


async def knock(client: Any, door: str, texts: list[str] = TEXTS) -> object:
    """Pass texts, or the last of them, in by a door, and wait for what comes out."""
    answer = call(client, door, texts)
    if hasattr(answer, "__aiter__"):
        return [piece async for piece in answer]
    return await answer if hasattr(answer, "__await__") else list(answer)


def call(client: Any, door: str, texts: list[str] = TEXTS) -> Any:
    """What a door returns: vectors, a coroutine or a stream."""
    method = door.split(".")[1]
    return getattr(client, method)(texts[-1] if method.endswith(FOR_ONE_TEXT) else texts)


async def failing(client: Any, door: str, texts: list[str] = TEXTS) -> BaseException:
    """What a door raises."""
    try:
        await knock(client, door, texts)
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


def secrets_in(shown: str, *, texts: bool = True) -> list[str]:
    """The names of the secrets of which at least 12 characters in a row are shown."""
    hidden = SECRETS | {"text": TEXT} if texts else SECRETS
    return [
        name
        for name, secret in hidden.items()
        if any(secret[at : at + 12] in shown for at in range(len(secret) - 11))
    ]


def family(error: BaseException, known: list[BaseException] | None = None) -> list[BaseException]:
    """An exception and all that hang on it: causes, contexts suppressed or not, members, attributes."""
    known = [] if known is None else known
    if not any(error is one for one in known):
        known.append(error)
        held = [error.__cause__, error.__context__, *error.args, *vars(error).values()]
        held += [one for value in vars(error).values() if isinstance(value, dict) for one in value.values()]
        for other in held:
            if isinstance(other, BaseException):
                family(other, known)
    return known


def said_by(error: BaseException) -> list[str]:
    """Where an exception or one of its family says a secret."""
    said = {"a pickle": pickle.dumps(error).decode("latin-1")}
    said["the traceback"] = "".join(traceback.format_exception(error))
    for one in family(error):
        said[f"str of {type(one).__name__}"] = str(one)
        said[f"repr of {type(one).__name__}"] = repr(one) + repr(one.args)
        said[f"notes of {type(one).__name__}"] = repr(getattr(one, "__notes__", ""))
        said[f"attributes of {type(one).__name__}"] = repr(vars(one))
        if hasattr(one, "errors"):  # pydantic's
            said[f"errors of {type(one).__name__}"] = repr(one.errors())
    return [f"{where}: {secret}" for where, shown in said.items() for secret in secrets_in(shown)]


def shown_by_frames(error: BaseException) -> list[str]:
    """The locals, in the tracebacks of an exception's family, that show a key, a header's value or a password.

    Texts may stand there: the caller's own frames hold them anyway.
    """
    shown = set()
    for one in family(error):
        frames = [frame for frame, _ in traceback.walk_tb(one.__traceback__)]
        summaries = traceback.StackSummary.extract(traceback.walk_tb(one.__traceback__), capture_locals=True)
        for frame, summary in zip(frames, summaries, strict=True):
            module = frame.f_globals["__name__"]
            if not module.startswith("tests."):
                shown |= {
                    f"{module}.{frame.f_code.co_name}: {name} ({secret})"
                    for name, value in (summary.locals or {}).items()
                    for secret in secrets_in(value, texts=False)
                }
    return sorted(shown)


def leaks(error: BaseException) -> list[str]:
    """Everything about an exception that shows a secret."""
    return [*said_by(error), *shown_by_frames(error)]


Make = Callable[..., Any]


def made(door: str, server: EmbeddingServer, **arguments: Any) -> Any:
    """The client of a door, with every secret."""
    arguments = {
        "base_url": f"{server.url}?token={QUERY}",
        "model": "m",
        "api_key": KEY,
        "headers": {"X-Marked": HEADER},
        "encoding": "float",
        "max_retries": 0,
        **arguments,
    }
    kind = door.split(".")[0]
    if kind == "EmbedwireEmbedding":
        arguments["model_name"] = arguments.pop("model") or "unknown"
    return KINDS[kind](**arguments)


Script = Callable[[Request], "Answer | None"]


def everything(request: Request) -> str:
    """All that a server knows of a request, as it may stand in a message."""
    return f"cannot do {request.texts} for {dict(request.headers)} at {request.path}"


def refusal(status: int, words: str = "", **fields: Any) -> Script:
    """A server that repeats all that it was sent in an error."""
    return lambda request: Answer.error(status, f"{words} {everything(request)}", **fields)


RETRIES = {"max_retries": RetryPolicy(attempts=3, base=0, throttled_base=0)}
