"""What a way back loses: which fields of a state do not survive going down and up again (DESIGN §7.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args, get_origin, get_type_hints

from orchestrator.runtime.state import PLAIN_STATE, StateCodec, Step


def lost_going_down(
    state: Mapping[str, Any], codec: StateCodec, down: Sequence[Step], up: Sequence[Step]
) -> list[str]:
    """The fields of `state` whose content `up(down(state))` does not give back, sorted.

    A field may happen to hold what the way up would put there, so each is also tried with another value of its type.
    Runs the author's steps, on copies.
    """
    lost = [key for key in state if not _survives(state, key, down, up)]
    for key, hint in _hints(codec.type).items():
        if key in state and key not in lost:
            with suppress(Exception):  # a made-up value that a step cannot take says nothing about real ones
                if not _survives({**state, key: _another(state[key], hint)}, key, down, up):
                    lost.append(key)
    return sorted(lost)


def _survives(state: Mapping[str, Any], key: str, down: Sequence[Step], up: Sequence[Step]) -> bool:
    copy = PLAIN_STATE.copy(state)
    for step in (*down, *up):
        copy = step(copy)
    return bool(key in copy and PLAIN_STATE.copy(copy[key]) == PLAIN_STATE.copy(state[key]))


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
