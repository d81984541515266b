"""What `embedwire embed` does with its arguments."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from embedwire._clients.own import EmbeddingClient
from embedwire._settings.settings import timeouts_of
from embedwire.bulk.doors import RESTART, embed_file, estimate
from embedwire.bulk.progress import outlook, summary
from embedwire.bulk.showing import JsonLines
from embedwire.exceptions import EmbedwireError, InputError


@contextmanager
def one_line() -> Iterator[None]:
    """What went wrong ends the command with exit code 1 and the message alone."""
    try:
        yield
    except EmbedwireError as error:
        sys.exit(f"embedwire: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries it once more at its end
        sys.exit("embedwire: nobody reads what it says any more. What was done is kept; go on with --resume")


def client(
    urls: list[str] | None,
    *,
    model: str | None,
    dimensions: int | None,
    normalize: bool,
    prompts: str | None,
    too_long: str,
    extra_body: str | None,
    batch_size: int | None,
    concurrency: int | None,
    timeout: float | None,
) -> EmbeddingClient:
    """A client with these arguments; None is its default.

    Raises:
        InputError: One of them is wrong.
    """
    where: Any = urls[0] if urls and len(urls) == 1 else urls or None
    limits = timeouts_of(120.0 if timeout is None else timeout)
    given: Any = {"too_long": too_long}
    return EmbeddingClient(
        where,
        model=model,
        dimensions=dimensions,
        normalize=normalize,
        prompts=_json("--prompts", prompts) if prompts and prompts.lstrip().startswith("{") else prompts,
        extra_body=None if extra_body is None else _json("--extra-body", extra_body),
        batch_size=batch_size or "auto",
        concurrency=concurrency or "auto",
        timeout=replace(limits, restart=RESTART, sock_read=60.0 if timeout is None else limits.sock_read),
        **given,
    )


def run(
    inputs: list[str],
    out: str,
    client: EmbeddingClient,
    arguments: dict[str, Any],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Embeds, and shows how far it is: on stderr, or as JSON on stdout."""
    if as_json and sys.stdout is None:
        raise InputError("stdout is closed, and --json writes there")
    lines = JsonLines(sys.stdout) if as_json else None
    report = embed_file(inputs, out, client, progress=lines or not quiet, **arguments)
    if lines is not None:
        lines.write("done", asdict(report))
    elif not quiet:
        _say(summary(report, out, arguments["rejects"] and str(arguments["rejects"])))


def look(inputs: list[str], client: EmbeddingClient, arguments: dict[str, Any], *, as_json: bool) -> None:
    """Tells what a run would do."""
    found = estimate(inputs, client, **arguments)
    if as_json:
        JsonLines(sys.stdout).write("estimate", asdict(found))
    else:
        sys.stdout.write(outlook(found) + "\n")


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise InputError(f'{option} must be JSON, such as {{"document": "passage: "}}') from None


def _say(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(line + "\n")
