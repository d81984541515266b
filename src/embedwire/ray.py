"""Ray Data: `EmbedBatch`, for `map_batches` with an actor pool."""

from __future__ import annotations

import importlib.util
import uuid
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if importlib.util.find_spec("ray") is None:
    raise ModuleNotFoundError('embedwire.ray needs Ray: install embedwire with its extra "ray"', name="ray")

from embedwire._clients.base import Client
from embedwire._clients.shared import SharedEmbeddingClient
from embedwire._clients.texts import check_kind
from embedwire._queue.usage import Usage, summed
from embedwire._settings.checks import check_int, is_unicode, plain, shown
from embedwire._settings.options import Kind, Timeouts
from embedwire._settings.sharing import most_parts, share_of
from embedwire.bulk.arrow import arrow
from embedwire.bulk.embedding import without_index
from embedwire.bulk.local import RESTART
from embedwire.bulk.task import Board
from embedwire.exceptions import InputError, RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

__all__ = ["EmbedBatch", "Tally"]


class Tally:
    """Adds up what the actors of a pool had embedded, those that died included.

    Make it where the program runs, after ``ray.init()``, and pass it to each `EmbedBatch`. It is an actor of its own,
    without a CPU.
    """

    def __init__(self) -> None:
        import ray

        self._board: Any = ray.remote(Board).options(num_cpus=0).remote()

    def usage(self) -> Usage:
        """What they had embedded so far, and what that took."""
        import ray

        return summed(ray.get(self._board.told.remote()).values())

    def tell(self, who: str, usage: Usage) -> None:
        """An actor tells what it had embedded so far."""
        self._board.tell.remote(who, usage)


class EmbedBatch:
    """Adds vectors to batches, for `ray.data.Dataset.map_batches` with a pool of actors, each of which has one client.

    Example:
        ```python
        from embedwire import SharedEmbeddingClient
        from embedwire.ray import EmbedBatch

        embedded = ray.data.read_parquet("docs").map_batches(
            EmbedBatch,
            fn_constructor_kwargs={"client": SharedEmbeddingClient(url, concurrency=16), "actors": 4},
            concurrency=4,
            num_cpus=0,
            batch_size=1000,
        )
        ```

    It takes batches of every format (NumPy, pandas, PyArrow), and gives them back with all columns that came. Vectors
    are float32: with ``on_error="column"`` Arrow's lists, else its lists of fixed size in PyArrow's batches, and in all
    others what becomes Ray's tensors, in NumPy's batches a matrix of shape (rows, dimensions).

    Args:
        client: A client, of which the arguments are taken, or a server's URL. None: ``EMBEDWIRE_BASE_URL`` where the
            actor runs. A key that is passed to it goes along, one that comes from the environment does not: actors
            read their own.
        text_column: What is embedded. Default ``"text"``.
        output_column: What the vectors are called. Default ``"embedding"``.
        kind: ``"document"`` or ``"query"``.
        on_error: ``"raise"`` ends the job at the first text that gets no vector. With ``"column"`` such rows have a
            null in the place of a vector, and the reason in ``error_column``. A server that is gone is raised always.
        error_column: What the reasons are called; null where there is a vector. Default ``"error"``.
        actors: How many actors the pool has at most: the number that ``concurrency=`` or ``compute=`` of
            ``map_batches`` says. ``concurrency`` and ``rate_limit`` of the client are shared out among so many; where
            these are set, it must be said.
        tally: Adds up what all actors had embedded.

    Raises:
        InputError: An argument is wrong; the message names it and says the cure. From a call: a batch lacks the column,
            or a text is none.
        RequestError: From a call: a text got no vector, or the server is gone.
    """

    def __init__(
        self,
        client: Client | str | None = None,
        *,
        text_column: str = "text",
        output_column: str = "embedding",
        kind: Kind = "document",
        on_error: Literal["raise", "column"] = "raise",
        error_column: str = "error",
        actors: int | None = None,
        tally: Tally | None = None,
    ) -> None:
        check_kind(kind)
        if not isinstance(on_error, str) or on_error not in ("raise", "column"):
            raise InputError(f"on_error must be 'raise' or 'column', not {shown(on_error)}")
        self._text, self._output, self._kind = text_column, output_column, kind
        self._error = error_column if on_error == "column" else None
        self._client = _share(client, actors)
        self._tally = tally
        self._name = uuid.uuid4().hex

    def __repr__(self) -> str:
        return f"EmbedBatch({self._client!r})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _name=uuid.uuid4().hex)  # it tells its own usage

    def __call__(self, batch: Any) -> Any:
        """The batch with vectors."""
        vectors, errors = self._embedded(_texts(batch, self._text))
        if self._tally is not None:
            self._tally.tell(self._name, self._client.usage())
        if self._error is None:
            return _with(batch, {self._output: vectors})
        nulls = [error is not None for error in errors]
        return _with(batch, {self._output: _nullable(vectors, nulls), self._error: _told(errors)})

    def _embedded(self, texts: list[Any]) -> tuple[Vectors, list[str | None]]:
        """The vectors of the texts that got one, in order; and of each text why it has none."""
        errors = [_problem(text, self._text) for text in texts]
        if self._error is None:
            for at, problem in enumerate(errors):
                if problem is not None:
                    raise InputError(
                        f"row {at} of a batch: {problem}. Leave such rows out before, or pass on_error='column'"
                    )
        good = [at for at, problem in enumerate(errors) if problem is None]
        try:
            return self._client.embed_array([plain(texts[at]) for at in good], self._kind), errors
        except RequestError as error:
            if self._error is None or error.index not in error.failures or error.completed is None:
                error.completed, error.failures = None, {}  # Ray sends it around
                raise
            for index, failure in error.failures.items():
                errors[good[index]] = without_index(failure)
            return error.completed.vectors, errors


def _share(client: Client | str | None, actors: int | None) -> SharedEmbeddingClient:
    if not isinstance(client, Client):
        client = SharedEmbeddingClient(client, timeout=Timeouts(restart=RESTART))
    settings = client._settings  # noqa: SLF001 - whatever its pickle carries
    if actors is not None:
        check_int("actors", actors, least=1)
    elif most_parts(settings) is not None:
        raise InputError(
            "the client's concurrency and rate_limit are shared out among the actors: say how many there are, actors=, "
            "as many as concurrency= or compute= of map_batches"
        )
    shared = SharedEmbeddingClient.__new__(SharedEmbeddingClient)
    shared.__setstate__(share_of(settings, actors or 1, (actors or 1) - 1))
    return shared


def _problem(text: object, column: str) -> str | None:
    if isinstance(text, str):
        return None if is_unicode(text) else f"{column!r} is not valid Unicode"
    if text is None or text != text:  # pandas' NaN
        return f"{column!r} is null"
    return f"{column!r} is no text but a {type(text).__name__}"


# Batches of each format


def _texts(batch: Any, column: str) -> list[Any]:
    """A column of a batch."""
    names = list(getattr(batch, "column_names", batch))  # of a table, a frame or a dict
    if column not in names:
        raise InputError(
            f"the batch has no column {column!r}; it has {', '.join(map(repr, names)) or 'none'}"
        )
    values = batch[column]
    texts: list[Any] = values.to_pylist() if hasattr(values, "to_pylist") else values.tolist()
    return texts


def _with(batch: Any, columns: dict[str, Any]) -> Any:
    """A batch with more columns, or others; each is a matrix, or Arrow's."""
    if hasattr(batch, "column_names"):
        for name, values in columns.items():
            there = batch.column_names.index(name) if name in batch.column_names else None
            values = values if hasattr(values, "to_pylist") else _listed(values)
            batch = (
                batch.append_column(name, values) if there is None else batch.set_column(there, name, values)
            )
        return batch
    if hasattr(batch, "assign"):
        return batch.assign(**{name: _as_pandas(values, batch.index) for name, values in columns.items()})
    return {**batch, **{name: _as_numpy(values) for name, values in columns.items()}}


def _listed(vectors: Vectors) -> Any:
    """Vectors as Arrow's lists of fixed size."""
    pa = arrow("vectors")
    if not len(vectors):
        return pa.nulls(0)  # which goes with lists of any size
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def _nullable(vectors: Vectors, nulls: list[bool]) -> Any:
    """Vectors as Arrow's lists, of any size: nulls among those of fixed size cannot be read back from Parquet.

    ``vectors`` has no row for a null.
    """
    import numpy as np

    pa = arrow("vectors")
    ends = np.cumsum(~np.array(nulls, bool)) * vectors.shape[1]
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    values = pa.array(vectors.ravel(), pa.float32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(nulls, pa.bool_()))


def _told(errors: list[str | None]) -> Any:
    pa = arrow("errors")
    return pa.array(errors, pa.string())


def _as_numpy(values: Any) -> Any:
    import numpy as np

    return values if len(values) else np.empty(0, object)  # Ray makes a column of no matrix without rows


def _as_pandas(values: Any, index: Any) -> Any:
    import pandas as pd

    if hasattr(values, "to_pylist"):
        return pd.Series(pd.arrays.ArrowExtensionArray(values), index=index)
    return pd.Series(list(values), index=index, dtype=object)
