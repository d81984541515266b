"""What both clients are: the one constructor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from embedwire._clients import fork
from embedwire._clients.mailbox import ears_of
from embedwire._queue.usage import Ledger, Usage
from embedwire._servers.agreement import Terms
from embedwire._servers.known import ServerInfo, forget, servers_info
from embedwire._settings import settings as of
from embedwire._settings.checks import check_bool, json_of
from embedwire._settings.discreet import discreet
from embedwire._settings.habits import advised
from embedwire._settings.hooks import NO_HOOKS, Hooks, OnEvent, hooks_of
from embedwire._settings.options import (
    SSL,
    ApiKey,
    BatchLimits,
    ByKind,
    Encoding,
    Family,
    Prompts,
    RateLimit,
    RetryPolicy,
    Timeouts,
    TooLong,
    VectorCache,
)
from embedwire._settings.servers import Servers, fleet_of


class Client:
    """A client's arguments, checked when it is made; it connects to nothing."""

    _settings: of.Settings
    _hooks: Hooks
    _ledger: Ledger

    @discreet
    @advised
    def __init__(
        self,
        base_url: Servers | None = None,
        *,
        model: str | None = None,
        api_key: ApiKey | None = None,
        batch_size: int | BatchLimits | Literal["auto"] = "auto",
        concurrency: int | Literal["auto"] = "auto",
        timeout: float | Timeouts | None = Timeouts(),
        deadline: float | None = None,
        max_retries: int | RetryPolicy = 2,
        dimensions: int | None = None,
        normalize: bool = False,
        prompts: Prompts | Family | str | None = None,
        encoding: Encoding | None = "auto",
        extra_body: Mapping[str, Any] | ByKind | None = None,
        too_long: TooLong = "raise",
        headers: Mapping[str, str] | None = None,
        ssl: SSL = None,
        proxy: str | None = None,
        trust_env: bool = False,
        max_queued: int = of.MAX_QUEUED,
        rate_limit: int | RateLimit | None = None,
        max_reply_bytes: int | Literal["auto"] = "auto",
        same_model: float | None = None,
        hedge: float | str | None = None,
        cache: str | os.PathLike[str] | VectorCache | None = None,
        on_event: OnEvent = None,
    ) -> None:
        """Checks the arguments.

        Args:
            base_url: The server. A host alone stands for ``/v1`` there; a path is kept, and ``/v1`` added or left out
                where only that answers; a URL that ends in ``/embeddings`` is used as it stands. A query is kept on
                each request, ``user:password@`` is sent as basic authorization, and ``unix:///run/server.sock`` is a
                Unix socket. A list names several servers of one and the same model, each a str or a `Server` with a
                key, headers or a weight of its own: a free place at any of them takes the next texts. None: the
                environment's ``EMBEDWIRE_BASE_URL``, which may be several with commas between.
            model: Name of the model; None for the one that the server serves (asked once).
            api_key: Sent as ``Authorization: Bearer``. A str, a SecretStr, or a function without arguments that
                returns one and is called for each request, on the loop: it must not block. None: the environment's
                ``EMBEDWIRE_API_KEY`` (for ``https://api.openai.com`` also ``OPENAI_API_KEY``).
            batch_size: Most texts in one request, or ``BatchLimits(texts=…, chars=…)``. ``"auto"``:
                starts at 5, or fewer at a llama-server with few slots, and goes where the rate is best
                with least in flight, up to 128; beyond the first few no more text than the server does in
                half a second; 32 queries that wait together.
            concurrency: Most requests in flight at the server; the smallest number among its clients that
                have work holds for all. ``"auto"``: starts at 4; at a llama-server as many as carry two
                texts for each of its slots, elsewhere as many as pay, up to 128; queries have room for 4
                more.
            timeout: Seconds for one whole request (to connect: at most 10 of them), None for no limit, or `Timeouts`.
                Default: 120 in all, 10 to connect, 60 of silence.
            deadline: Seconds for one whole call: queue, attempts, pauses and body. Default: none.
            max_retries: Repeats of a request that failed for a passing reason, or a `RetryPolicy`. Default: 2.
            dimensions: Numbers per vector, which then has unit length, whoever cut it. A server that ignores or refuses
                it gets its vectors cut here. Default: as many as the model has.
            normalize: Bring each vector to unit length. Default: as the server sends them.
            prompts: What stands before each query and document: `Prompts`, or the name of a family of models:
                ``"e5"``, ``"nomic"``, ``"bge"``, ``"mxbai"``, ``"arctic"``, ``"arctic2"``, ``"embeddinggemma"``,
                ``"qwen3"``.
            encoding: How vectors travel: ``"float"``, ``"base64"``, or ``"auto"``; None leaves the field out.
            extra_body: Further fields of each request, such as ``{"truncate": True}``, or `ByKind` where those for
                queries and for documents differ. Only texts whose fields are equal share a request.
            too_long: What becomes of a text that the model cannot take whole: ``"raise"`` `TextRefused`, ``"truncate"``
                it to what the server takes, or ``"average"`` the vectors of its parts, weighted by their length.
                Default: ``"raise"``.
            headers: Further headers of each request.
            ssl: An ``ssl.SSLContext``, the path of a CA file, or False to verify nothing.
            proxy: URL of an HTTP proxy.
            trust_env: Take the proxy from the environment (``HTTPS_PROXY`` and the like).
            max_queued: Most texts that wait at one server; a call that would go over it gets `Overloaded`.
                Default: 1,000,000.
            rate_limit: Most requests per minute, spread evenly, or a `RateLimit`. Default: none.
            max_reply_bytes: Most bytes read of one reply. ``"auto"``: 4 MiB and 256 KiB for each of its texts.
            same_model: How near the vectors of one text from two servers must be, as a cosine, for both to be used;
                for a quantised twin 0.98, say. Default: 0.999, and the names of the models must agree.
            hedge: Send a query that takes longer than these seconds, or than ``"p95"`` (any other percentile likewise)
                of the last ones, to a second server too; the first answer counts. At most 5 % more requests.
                Default: never.
            cache: A file that keeps vectors, for this program and for others, so that a text that was embedded before
                costs no request: its path, or a `VectorCache`. A vector is taken only for the same text, model, kind,
                prompt, ``dimensions``, ``normalize``, ``extra_body`` and ``too_long``. Where ``model`` is None, the
                server is asked each time which one it serves. Default: none.
            on_event: A function, or several, told what happens (`embedwire.events`) in a thread of its own, so that one
                that blocks or raises harms no call. Default: none; the log tells what matters.

        Raises:
            InputError: An argument is wrong; the message names it and says the cure.
            TypeError: There is no argument of that name; the message says what it is called here.
        """
        extra = of.by_kind(extra_body)
        form = of.Form(
            model=of.model_of(model),
            dimensions=of.dimensions_of(dimensions),
            encoding=of.encoding_of(encoding),
            extra=json_of("extra_body", extra.document),
            batch=of.batch_of(batch_size),
            concurrency=of.concurrency_of(concurrency),
            timeouts=of.timeouts_of(timeout),
            retry=of.retry_of(max_retries),
            rate=of.rate_of(rate_limit),
            max_reply=of.max_reply_of(max_reply_bytes),
        )
        self._settings = of.Settings(
            fleet=fleet_of(base_url, api_key, headers, ssl, proxy, trust_env, same_model, hedge),
            form=form,
            query_form=replace(form, extra=json_of("extra_body", extra.query)),
            deadline=of.deadline_of(deadline),
            normalize=check_bool("normalize", normalize),
            prompts=of.check_prompts(prompts),
            too_long=of.too_long_of(too_long),
            max_queued=of.max_queued_of(max_queued),
            cache=of.cache_of(cache),
        )
        self._hooks = hooks_of(on_event)
        self._begin()

    def _begin(self) -> None:
        """Sets up what the settings are for; also at the other end of a pickle."""
        self._ledger = Ledger()
        self._ears = ears_of(self._hooks)

    def usage(self) -> Usage:
        """What this client had embedded so far, and what that took."""
        return self._ledger.usage()

    def __getstate__(self) -> of.Settings | tuple[of.Settings, Hooks]:
        """A pickle, or a copy, carries the arguments only; never a key that came from the environment."""
        return (self._settings, self._hooks) if self._hooks else self._settings

    def __setstate__(self, state: of.Settings | tuple[of.Settings, Hooks]) -> None:
        self._settings, self._hooks = state if isinstance(state, tuple) else (state, NO_HOOKS)
        self._begin()

    def __repr__(self) -> str:
        name = type(self).__name__
        if not hasattr(self, "_settings"):  # its arguments were refused
            return f"{name}()"
        urls = [target.base_url for target in self._settings.fleet.targets]
        where = repr(urls[0]) if len(urls) == 1 else repr(urls)
        return f"{name}({where}, model={self._settings.form.model!r})"

    def server_info(self) -> ServerInfo:
        """What is known about the server, or about each of several, so far; asks nothing."""
        settings, fleet = self._settings, self._settings.fleet.visited()
        terms = Terms(fleet.same_model, settings.normalize)
        return servers_info(fleet.targets, terms, settings.form, settings.query_form)


fork.in_child(forget)
