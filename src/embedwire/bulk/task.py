"""What one task of a cluster does: one shard, as a job of its own, which goes on where one that died ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from embedwire._clients.own import EmbeddingClient
from embedwire._settings.settings import Settings
from embedwire.bulk.embedding import told_anew
from embedwire.bulk.job import Job
from embedwire.bulk.local import Outcome, run_job
from embedwire.bulk.records import Chunk, Progress, Source
from embedwire.exceptions import EmbedwireError, InputError, RequestError

PATIENCE = 120.0  # seconds that a task which is to be dead already may still hold the shard's lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a task is told.

    Attributes:
        first: Number of the first row.
        name: Of the shard.
        job: What is to be made of it.
        settings: Of the client; nothing shows them.
        board: Where it tells how far it is.
    """

    first: int
    name: str
    job: Job
    settings: Settings
    board: Any

    def __repr__(self) -> str:
        return f"Work({self.name})"


def embed_shard(work: Work, pieces: tuple[Any, ...]) -> Outcome | EmbedwireError:
    """Embeds a shard.

    Args:
        work: What to do.
        pieces: References to its chunks.

    Returns:
        What was done, or what went wrong: Ray would show what is raised with all that led there.
    """
    client = EmbeddingClient.__new__(EmbeddingClient)
    client.__setstate__(work.settings)
    source = Source(name=work.name)
    teller = Teller(work.board, work.first)
    try:
        chunks = _chunks(pieces)
        return run_job(work.job, [source], chunks, 0, client, teller, first=work.first, patience=PATIENCE)
    except RequestError as error:
        return told_anew(error, str(error))  # without the vectors that it has
    except EmbedwireError as error:
        return error


def _chunks(pieces: tuple[Any, ...]) -> Iterator[Chunk]:
    ray = loaded()
    for piece in pieces:
        yield ray.get(piece)


def loaded() -> ModuleType:
    """Ray.

    Raises:
        InputError: It is not installed.
    """
    import importlib

    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise InputError('the engine "ray" needs Ray: install embedwire with its extra "ray"') from None


class Teller:
    """Tells the board twice a second how far a task is."""

    every, blocks = 0.5, False

    def __init__(self, board: Any, first: int) -> None:
        self._board, self._first = board, first

    def show(self, progress: Progress) -> None:
        """Tells it."""
        self._board.tell.remote(self._first, progress)

    def close(self) -> None:
        """Nothing."""


class Board:
    """What each of several processes told last; in a cluster a process of its own. Its state is that."""

    def __init__(self) -> None:
        self._told: dict[Any, Any] = {}

    def tell(self, who: Any, what: Any) -> None:
        """Somebody tells something, in the place of what he told before."""
        self._told[who] = what

    def told(self) -> dict[Any, Any]:
        """All of it."""
        return self._told
