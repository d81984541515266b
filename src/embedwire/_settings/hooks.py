"""`on_event`: the functions that are told what happens. Two clients do not differ by them."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from embedwire._settings.checks import shown
from embedwire.events import Event
from embedwire.exceptions import InputError

Hook: TypeAlias = Callable[[Event], object]
OnEvent: TypeAlias = Hook | Sequence[Hook] | None


class Hooks(tuple[Hook, ...]):
    """The functions of one client, each once. All are equal: they change no vector, no connection and no cache.

    Copies share them; a pickle carries them, where they can be.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hooks)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"<{len(self)} hooks>"

    def __copy__(self) -> Hooks:
        return self

    def __deepcopy__(self, _: object) -> Hooks:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        hooks = tuple(self)
        try:
            pickle.dumps(hooks)
        except Exception:  # each type fails in its own way
            raise InputError(
                "on_event cannot be pickled as it is; pass functions of a module, not lambdas or inner functions"
            ) from None
        return type(self), (hooks,)


NO_HOOKS = Hooks()


def hooks_of(value: object) -> Hooks:
    """`on_event`, where it is a function, or several.

    Raises:
        InputError: It is something else, or a function of coroutines.
    """
    if isinstance(value, Hooks):
        return value
    if value is None or callable(value):
        given: list[Any] = [] if value is None else [value]
    elif isinstance(value, (list, tuple, set, frozenset)):
        given = list(value)
    else:
        raise InputError(f"on_event must be a function, a list of functions or None, not {shown(value)}")
    hooks: list[Any] = []
    for hook in given:
        if isinstance(hook, type):
            raise InputError(f"on_event takes an object, not its class: {hook.__name__}(…)")
        if not callable(hook):
            raise InputError(f"on_event must be a function, or a list of functions, not {shown(hook)}")
        if any(map(inspect.iscoroutinefunction, (hook, type(hook).__call__))):
            raise InputError(
                f"on_event takes no async function, as it is called in a thread of its own; make {name_of(hook)} one "
                "without async"
            )
        if not any(_same(hook, other) for other in hooks):
            hooks.append(hook)
    return Hooks(hooks)


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # of a comparison of the user's own
        return False


def name_of(hook: object) -> str:
    """What a hook is called, for messages: its own repr may show anything."""
    name = getattr(hook, "__qualname__", None) or type(hook).__qualname__
    return str(name)
