"""Old shapes of a message's body, and how each becomes the next (DESIGN §7.1, `@upcasts("order", 1, 2)`).

Only a body that does not fit the handler comes here, so a body that fits pays nothing. The newest old shape is tried
first; from the one that fits, each step's result must fit the next, and the last one's the handler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.runtime.errors import DefinitionInvalid, Misfit
from orchestrator.runtime.message import Message, is_authors

if TYPE_CHECKING:
    from orchestrator.runtime.handlers import Arguments, Handler


class Upcast(msgspec.Struct, frozen=True):
    """What `@upcasts` says of a method: the type, and the numbers of the shape it takes and the one it returns."""

    type: str
    before: int
    after: int


def check_upcast(upcast: Upcast, function: Callable[..., Any]) -> None:
    """Raises DefinitionInvalid for what can be seen of one alone: numbers that are no step up, a coroutine, an event."""
    call = f'{function.__qualname__}() is @upcasts("{upcast.type}", {upcast.before!r}, {upcast.after!r})'
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (upcast.before, upcast.after))
    if not whole or upcast.before < 1 or upcast.after != upcast.before + 1:
        raise DefinitionInvalid(
            f"{call}; the numbers count the shapes of the body, oldest first, from 1, and a step leads to the next one. "
            'Write e.g. @upcasts("order", 1, 2): it takes the fields of shape 1 and returns a body of shape 2.'
        )
    if inspect.iscoroutinefunction(function):
        raise DefinitionInvalid(
            f"{call} and `async def`; it only makes one body of another. Write a plain `def`."
        )
    if not is_authors(upcast.type):
        raise DefinitionInvalid(f"{call}; only messages that a handler takes by their type have upcasts.")


def attach(handlers: Mapping[str, Handler], steps: Iterable[tuple[Upcast, Handler]], owner: str) -> None:
    """Give each handler the steps that lead to it, newest first. Raises DefinitionInvalid for a chain that has none or gaps."""
    chains: dict[str, dict[int, Handler]] = {}
    for upcast, step in steps:
        chain = chains.setdefault(upcast.type, {})
        if upcast.before in chain:
            raise DefinitionInvalid(
                f"{owner} has two upcasts of {upcast.type!r} from shape {upcast.before}: {chain[upcast.before].method}() "
                f"and {step.method}(). Keep one."
            )
        chain[upcast.before] = step
    for type_, chain in chains.items():
        if type_ not in handlers:
            known = ", ".join(sorted(filter(is_authors, handlers))) or "nothing"
            raise DefinitionInvalid(
                f"{owner}.{next(iter(chain.values())).method}() upcasts {type_!r}, which no method handles. "
                f"It handles: {known}."
            )
        missing = sorted(set(range(min(chain), max(chain) + 1)) - set(chain))
        if missing:
            gap = missing[0]
            raise DefinitionInvalid(
                f"{owner} has upcasts of {type_!r} from {min(chain)} to {max(chain) + 1} but none from {gap}. "
                f'Add @upcasts("{type_}", {gap}, {gap + 1}).'
            )
        handlers[type_].upcasts = tuple(chain[n] for n in sorted(chain, reverse=True))


class Upcasting:
    """The arguments of a handler that takes older shapes too."""

    __slots__ = ("_arguments", "_steps")

    def __init__(self, handler: Handler, instance: object) -> None:
        self._arguments = handler.arguments
        self._steps: tuple[tuple[Arguments, Callable[..., Any], str], ...] = tuple(
            (step.arguments, getattr(instance, step.method), step.method) for step in handler.upcasts
        )

    def __call__(self, message: Message) -> tuple[Any, ...]:
        """What the handler is called with. Raises Misfit: the handler's own, if the body has no known shape."""
        try:
            return self._arguments(message)
        except Misfit as misfit:
            for place, (arguments, _, _) in enumerate(self._steps):
                try:
                    found = arguments(message)
                except Misfit:
                    continue
                return self._walk(message, found, place)
            raise misfit from None

    def _walk(self, message: Message, found: tuple[Any, ...], place: int) -> tuple[Any, ...]:
        """From the step at `place` to the newest, each on what the one before returned."""
        for step in range(place, -1, -1):
            _, upcast, method = self._steps[step]
            message = msgspec.structs.replace(message, body=upcast(*found))
            takes = self._steps[step - 1][0] if step else self._arguments
            try:
                found = takes(message)
            except Misfit as error:
                raise Misfit(f"{error} (in what the upcast {method}() made of an older body)") from None
        return found
