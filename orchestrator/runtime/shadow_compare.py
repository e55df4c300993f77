"""What two versions said on the same message, compared and shown (DESIGN §6, a shadow). No I/O.

Compared as plain data, exactly: 3 and 3.0 and True are three things, a list is no tuple, a float is its bits. What is shown
has bounds, whatever the bodies are, and is printable; secrets are taken out of a value before it is cut, never after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

LEAF_CHARS_MAX: Final = 60
LEAF_READ_MAX: Final = 64 * 1024  # a longer text is told by its length: a secret in it is never cut in two
ITEMS_MAX: Final = 6
VALUE_CHARS_MAX: Final = 200
DIFFERENCES_MAX: Final = 6  # of one message

Hide = Callable[[str], str]


class Difference(NamedTuple):
    """One place where the new version says something else: what, and the value of each, as texts; `-` is nothing."""

    what: str
    before: str
    after: str

    @property
    def lines(self) -> list[str]:
        """As a diff."""
        return [
            *([f"- {self.what}: {self.before}"] if self.before != NOTHING else []),
            *([f"+ {self.what}: {self.after}"] if self.after != NOTHING else []),
        ]

    def __str__(self) -> str:
        return f"{self.what}: {self.before} → {self.after}"


NOTHING: Final = "nothing"


def same(one: Any, other: Any) -> bool:
    """Whether they are the same plain data."""
    if one.__class__ is not other.__class__:
        return False
    if one.__class__ is dict:
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if one.__class__ in {list, tuple}:
        return len(one) == len(other) and all(map(same, one, other))
    if one.__class__ is float:
        return bool(one.hex() == other.hex())
    return bool(one == other)


class Shower:
    """Shows values and how they differ. `hide` takes secrets out of a text."""

    __slots__ = ("_hide",)

    def __init__(self, hide: Hide) -> None:
        self._hide = hide

    def value(self, value: Any) -> str:
        """The value as its author would write it, cut."""
        text = self._shown(value, 4)
        return text if len(text) <= VALUE_CHARS_MAX else f"{text[: VALUE_CHARS_MAX - 1]}…"

    def name(self, name: object) -> str:
        """A name or type out of a message."""
        return self._leaf(str(name))[1:-1]

    def text(self, text: str) -> str:
        """A sentence of ours that may have an author's words in it."""
        hidden = self._hide(text[:LEAF_READ_MAX])
        plain = repr(hidden)[1:-1] if not hidden.isprintable() else hidden
        return plain if len(plain) <= VALUE_CHARS_MAX else f"{plain[: VALUE_CHARS_MAX - 1]}…"

    def _shown(self, value: Any, depth: int) -> str:
        if value.__class__ is dict:
            return self._many(
                "{}",
                (f"{self._leaf(k)}: {self._shown(v, depth - 1)}" for k, v in value.items()),
                value,
                depth,
            )
        brackets = _BRACKETS.get(value.__class__)
        if brackets is not None:
            return self._many(brackets, (self._shown(item, depth - 1) for item in value), value, depth)
        return self._leaf(value)

    def _many(
        self, brackets: str, items: Iterator[str], value: Sequence[Any] | Mapping[Any, Any], depth: int
    ) -> str:
        if not depth and value:
            return f"{brackets[0]}…{brackets[1]}"
        few = [item for item, _ in zip(items, range(ITEMS_MAX), strict=False)]
        more = [f"… {len(value) - len(few)} more"] if len(value) > len(few) else []
        return f"{brackets[0]}{', '.join([*few, *more])}{brackets[1]}"

    def _leaf(self, value: Any) -> str:
        if value.__class__ in {str, bytes}:
            if len(value) > LEAF_READ_MAX:
                return f"<{'text' if value.__class__ is str else 'bytes'} of {len(value)}>"
            if value.__class__ is str:
                value = self._hide(value)
        text = self._hide(repr(value))
        return text if len(text) <= LEAF_CHARS_MAX else f"{text[: LEAF_CHARS_MAX - 2]}…{text[-1]}"

    def differences(self, before: Any, after: Any, what: str) -> Iterator[Difference]:
        """Where two values differ, as deep as can be told."""
        if same(before, after):
            return
        if before.__class__ is dict and after.__class__ is dict:
            for key in [*before, *(key for key in after if key not in before)]:
                yield from self._of_items(before, after, key, f"{what}[{self._leaf(key)}]")
        elif (
            before.__class__ is after.__class__
            and before.__class__ in {list, tuple}
            and len(before) == len(after)
        ):
            for place, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from self.differences(one, other, f"{what}[{place}]")
        else:
            yield Difference(what, self.value(before), self.value(after))

    def _of_items(self, before: Any, after: Any, key: object, what: str) -> Iterator[Difference]:
        if key not in before:
            yield Difference(what, NOTHING, self.value(after[key]))
        elif key not in after:
            yield Difference(what, self.value(before[key]), NOTHING)
        else:
            yield from self.differences(before[key], after[key], what)


_BRACKETS: Final[Mapping[type, str]] = {list: "[]", tuple: "()", set: "{}", frozenset: "{}"}
