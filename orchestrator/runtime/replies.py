"""What a handler answers, from its return annotation; what is not said, or is not plain data, is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from orchestrator.runtime.message import is_authors
from orchestrator.runtime.schema import Schema, schema_of

if TYPE_CHECKING:
    from orchestrator.runtime.handlers import Handler


def reply_schemas(cls: type, handlers: Mapping[str, Handler]) -> dict[str, Schema]:
    """Type → the schema of the reply, of the handlers that say what they return. Slow: for descriptions."""
    found = {
        type_: _returned(getattr(cls, handler.method))
        for type_, handler in handlers.items()
        if is_authors(type_)
    }
    return {type_: schema for type_, schema in found.items() if schema is not None}


def _returned(function: Any) -> Schema | None:
    try:
        hints = get_type_hints(function, include_extras=True)
        return schema_of(hints["return"]) if "return" in hints else None
    except (NameError, TypeError, AttributeError):
        return None
