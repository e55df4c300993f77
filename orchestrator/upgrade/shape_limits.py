"""Bounds of numbers, texts and dicts: which of them are tighter than they were. A small part of `shapes.py`. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.runtime.schema import Schema

_INFINITE = float("inf")


def limits_that_tighten(old: Schema, new: Schema) -> Iterator[str]:
    """What each bound was and is, for those by which the new schema takes less."""
    yield from _lower(old, new)
    yield from _upper(old, new)
    yield from _lengths(old, new)
    step, step_now = old.get("multipleOf"), new.get("multipleOf")
    if step_now is not None and (step is None or step % step_now):
        yield f"now only multiples of {step_now:g}"
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        was = (
            f"the pattern {old['pattern']} before, now"
            if "pattern" in old
            else "now only texts of the pattern"
        )
        yield f"{was} {new['pattern']}"
    zone = new.get("timezone")
    if zone is not None and zone != old.get("timezone"):
        yield f"now only {'with' if zone else 'without'} a time zone"


def _lower(old: Schema, new: Schema) -> Iterator[str]:
    was, now = _least(old), _least(new)
    if now > was:
        yield f"{_bound('at least', 'above', was)}, now {_bound('at least', 'above', now)}"


def _upper(old: Schema, new: Schema) -> Iterator[str]:
    was, now = _most(old), _most(new)
    if now < was:
        yield f"{_bound('at most', 'below', was)}, now {_bound('at most', 'below', now)}"


def _bound(reached: str, not_reached: str, bound: tuple[float, int]) -> str:
    value, excluded = bound
    return (
        "without a limit" if abs(value) == _INFINITE else f"{not_reached if excluded else reached} {value:g}"
    )


def _least(schema: Schema) -> tuple[float, int]:
    """The lower bound; the second is 1 if the bound itself is refused. An integer above 0 is one from 1."""
    above = schema.get("exclusiveMinimum", -_INFINITE)
    if schema.get("type") == "integer" and isinstance(above, int):
        return max((schema.get("minimum", -_INFINITE), 0), (above + 1, 0))
    return max((schema.get("minimum", -_INFINITE), 0), (above, 1 if above > -_INFINITE else 0))


def _most(schema: Schema) -> tuple[float, int]:
    """The upper bound; the second is -1 if the bound itself is refused."""
    below = schema.get("exclusiveMaximum", _INFINITE)
    if schema.get("type") == "integer" and isinstance(below, int):
        return min((schema.get("maximum", _INFINITE), 0), (below - 1, 0))
    return min((schema.get("maximum", _INFINITE), 0), (below, -1 if below < _INFINITE else 0))


def _lengths(old: Schema, new: Schema) -> Iterator[str]:
    letters = "bytes" if "contentEncoding" in new else "characters"
    for what, unit in (("Length", letters), ("Properties", "entries")):
        least = old.get(f"min{what}", len(old.get("required", ())) if what == "Properties" else 0)
        if new.get(f"min{what}", 0) > least:
            yield f"now at least {new[f'min{what}']} {unit}"
        most = old.get(f"max{what}", _named(old) if what == "Properties" else _INFINITE)
        if new.get(f"max{what}", _INFINITE) < most:
            yield f"now at most {new[f'max{what}']} {unit}"


def _named(schema: Schema) -> float:
    """How many fields an object can have: those it names, if it refuses others."""
    return len(schema.get("properties", ())) if schema.get("additionalProperties") is False else _INFINITE
