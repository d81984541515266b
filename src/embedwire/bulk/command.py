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
from embedwire._settings.options import VectorCache
from embedwire._settings.settings import timeouts_of
from embedwire.bulk.doors import embed_file, estimate
from embedwire.bulk.local import RESTART
from embedwire.bulk.progress import outlook, summary
from embedwire.bulk.records import RayEngine
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
    cache: VectorCache | None,
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
        cache=cache,
        **given,
    )


def cache(where: str | None, most: int | None) -> VectorCache | None:
    """The cache at a path; a folder stands for a file in it, and one that is not there yet for a file of its name.

    Raises:
        InputError: There can be none.
    """
    if where is None:
        if most is not None:
            raise InputError("--cache-bytes needs --cache")
        return None
    if where.endswith(("/", os.sep)) or os.path.isdir(where):
        try:
            os.makedirs(where, exist_ok=True)
        except OSError as error:
            raise InputError(f"--cache: the folder {where} cannot be made: {error.strerror}") from None
        where = os.path.join(where, "vectors.sqlite")
    if not where:
        raise InputError("--cache must be the path of a file or of a folder")
    return VectorCache(where) if most is None else VectorCache(where, max_bytes=most)


def engine(name: str, address: str | None, workers: int | None) -> str | RayEngine:
    """The engine with these arguments.

    Raises:
        InputError: They are another engine's.
    """
    if name == "ray":
        return RayEngine(address=address, workers=workers)
    for option, value in (("--address", address), ("--workers", workers)):
        if value is not None:
            raise InputError(f"{option} is for --engine ray")
    return name


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
