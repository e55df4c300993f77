"""What a way back loses: which fields of a state do not survive going down and up again (DESIGN §7.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args, get_origin, get_type_hints

from orchestrator.runtime.state import PLAIN_STATE, StateCodec, Step


def lost_going_down(
    state: Mapping[str, Any],
    codec: StateCodec,
    down: Sequence[Step],
    up: Sequence[Step],
    *,
    sample: Mapping[str, Any] | None = None,
    lower: object = None,
) -> list[str]:
    """The fields of `state` whose content `up(down(state))` does not give back, sorted. `lower`: `down(state)`, if at hand.

    A field may happen to hold what the way up would put there, so each is also tried with another value of its type:
    in `state`, or in `sample`, a smaller one of the same type. Runs the author's steps, on copies; raises what they do.
    """
    came_back = _taken(state, (*down, *up)) if lower is None else _taken(lower, up)
    lost = {key for key in state if not _same(state, came_back, key)}
    tried = state if sample is None else sample
    for key, hint in _hints(codec.type).items():
        if key in tried and key not in lost:
            with suppress(Exception):  # a made-up value that a step cannot take says nothing about real ones
                other = {**tried, key: _another(tried[key], hint)}
                if not _same(other, _taken(other, (*down, *up)), key):
                    lost.add(key)
    return sorted(lost)


def _taken(state: object, steps: Sequence[Step]) -> Mapping[str, Any]:
    copy = PLAIN_STATE.copy(state)
    for step in steps:
        copy = step(copy)
    return dict(copy)


def _same(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> bool:
    return bool(key in after and PLAIN_STATE.copy(after[key]) == PLAIN_STATE.copy(before[key]))


def _hints(type_: Any) -> dict[str, Any]:
    try:
        return get_type_hints(type_)
    except (TypeError, NameError):
        return {}


def _another(value: Any, hint: Any) -> Any:
    """A value of the type that differs from `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return f"{value}?"
    if isinstance(value, bytes):
        return value + b"?"
    if isinstance(value, list):
        return [*value, _sample(*(get_args(hint) or (str,)))]
    if isinstance(value, dict) and get_origin(hint) is dict:
        key, item = get_args(hint)
        return {**value, _sample(key): _sample(item)}
    raise TypeError(f"no other value is known for {type(value).__name__}")


def _sample(hint: Any) -> Any:
    origin = get_origin(hint) or hint
    if origin in {dict, list, set}:
        return origin()
    if origin in {int, float, str, bytes, bool}:
        return origin(f"{4711}") if origin in {int, str} else origin(4) if origin is not bool else True
    return {name: _sample(each) for name, each in get_type_hints(hint).items()}
