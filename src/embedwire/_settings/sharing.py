"""A client's limits, shared out among several processes that use one server. Pure."""

from __future__ import annotations

from dataclasses import fields, replace

from embedwire._settings.options import RateLimit
from embedwire._settings.settings import Form, Settings
from embedwire.exceptions import InputError


def most_parts(settings: Settings) -> int | None:
    """Among how many processes the limits can be shared out; None where there are none."""
    return min(_limits(settings.form).values(), default=None)


def share_of(settings: Settings, parts: int, index: int) -> Settings:
    """The settings of one of several processes; what all have in flight, and send in a minute, is what was said.

    Args:
        settings: As the user gave them.
        parts: How many processes there are.
        index: Which one this is, from 0 on; the first ones get what is over.

    Raises:
        InputError: A limit is smaller than ``parts``.
    """
    for name, most in _limits(settings.form).items():
        if most < parts:
            raise InputError(
                f"{name}={most} cannot be shared out among {parts} processes, each of which needs at least 1; use at "
                f"most {most} of them, or a larger number"
            )
    return replace(
        settings,
        form=_form(settings.form, parts, index),
        query_form=_form(settings.query_form, parts, index),
    )


def _limits(form: Form) -> dict[str, int]:
    """The limits that were set, by name."""
    found = {} if form.concurrency is None else {"concurrency": form.concurrency}
    for name, most in _rates(form.rate).items():
        if most is not None:
            found[f"rate_limit.{name}"] = most
    return found


def _rates(rate: RateLimit | None) -> dict[str, int | None]:
    return {} if rate is None else {one.name: getattr(rate, one.name) for one in fields(rate)}


def _form(form: Form, parts: int, index: int) -> Form:
    def share(whole: int | None) -> int | None:
        return None if whole is None else whole // parts + (index < whole % parts)

    rates = {name: share(most) for name, most in _rates(form.rate).items()}
    return replace(
        form, concurrency=share(form.concurrency), rate=None if form.rate is None else RateLimit(**rates)
    )
