"""From a method and its parameters to something that takes a message's body (DESIGN §5).

All of it is worked out once, when a version is loaded; a message costs one lookup, one decoding and one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_origin, get_type_hints

import msgspec

from orchestrator.runtime.errors import DefinitionInvalid, Misfit
from orchestrator.runtime.first_use import decoder_of
from orchestrator.runtime.message import Message
from orchestrator.runtime.schema import NONE_IS_EMPTY, schema_of

Arguments = Callable[[Message], tuple[Any, ...]]  # Any: bodies are the author's data


class Handler:
    """How one type of message is handled: which method, what it takes, how it runs."""

    __slots__ = ("again", "arguments", "is_async", "method", "schema", "thread", "type", "upcasts")

    def __init__(
        self,
        type_: str,
        function: Callable[..., Any],
        *,
        method: str | None = None,
        again: bool | None = None,
        thread: bool = False,
    ) -> None:
        _refuse_generator(function)
        self.type = type_
        self.method = method or function.__name__
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self.again = again
        self.thread = thread
        self.schema: dict[str, Any]
        self.schema, self.arguments = _compile(function)
        self.upcasts: tuple[Handler, ...] = ()  # what makes a body of an older shape, newest shape first


def _refuse_generator(function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionInvalid(
            f"Handler {function.__qualname__}() is a generator, which runs only when somebody iterates over it. "
            "Return the values as a list."
        )


def _compile(function: Callable[..., Any]) -> tuple[dict[str, Any], Arguments]:
    """The JSON Schema of the body that the parameters ask for, and what makes arguments of a message."""
    parameters = _parameters(function)
    body_names = [name for name, hint, _ in parameters if hint is not Message]
    names = [None if hint is Message else name for name, hint, _ in parameters]
    fields = [(name, hint, default) for name, hint, default in parameters if hint is not Message]
    try:
        if len(fields) == 1 and _takes_whole_body(fields[0][1]):
            decoder_of(fields[0][1])  # so that the first message finds the type ready
            return schema_of(fields[0][1]), _whole(fields[0][1], names)
        body_type = msgspec.defstruct(
            f"{function.__name__}_body",
            [(n, h) if d is inspect.Parameter.empty else (n, h, d) for n, h, d in _required_first(fields)],
            forbid_unknown_fields=True,
            module=function.__module__,  # of the version, so that it is freed with it
        )
        decoder_of(body_type)
        return {**schema_of(body_type), NONE_IS_EMPTY: True}, _fields(body_type, body_names, names)
    except (TypeError, ValueError) as error:
        raise DefinitionInvalid(
            f"Handler {function.__qualname__}() takes what is not plain data: {str(error).splitlines()[-1]}. "
            "Annotate its parameters with plain types, a TypedDict or a msgspec Struct."
        ) from error


def _parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """(name, type, default) of each parameter after self."""
    try:
        hints = get_type_hints(function, include_extras=True)  # msgspec reads limits from Annotated
    except (NameError, TypeError, AttributeError) as error:
        raise DefinitionInvalid(
            f"The annotations of {function.__qualname__}() cannot be resolved: {error}. "
            "Its types must be importable names of the module."
        ) from error
    found = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise DefinitionInvalid(
                f"{function.__qualname__}() has the parameter {parameter}; a handler's parameters are the fields "
                "of its body, so *args, **kwargs and positional-only ones cannot be filled. Name them, or take one dict."
            )
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise DefinitionInvalid(
                f"{function.__qualname__}() has keyword-only parameters; write them without the *."
            )
        found.append((parameter.name, hints.get(parameter.name, Any), parameter.default))
    return found


def _required_first(fields: list[tuple[str, Any, Any]]) -> list[tuple[str, Any, Any]]:
    """Fields by need: a Message parameter may stand between them, so Python's own order rule does not hold here."""
    return sorted(fields, key=lambda field: field[2] is not inspect.Parameter.empty)


def _takes_whole_body(hint: Any) -> bool:
    """Whether it is a dict, a TypedDict or a Struct, which takes the body as it is."""
    if get_origin(hint) is dict or hint is dict:
        return True
    return isinstance(hint, type) and (
        issubclass(hint, msgspec.Struct) or (issubclass(hint, dict) and hasattr(hint, "__total__"))
    )


def _whole(hint: Any, names: list[str | None]) -> Arguments:
    def decode(message: Message) -> Any:
        try:
            return msgspec.convert(message.body, hint)
        except msgspec.ValidationError as error:
            raise Misfit(str(error)) from None

    def plain_dict(message: Message) -> Any:
        if message.body.__class__ is not dict:
            raise Misfit(f"Expected an object, got {type(message.body).__name__}")
        return message.body

    body = plain_dict if hint is dict else decode
    if len(names) == 1:
        return lambda message: (body(message),)
    return lambda message: tuple(message if name is None else body(message) for name in names)


def _fields(body_type: Any, body_names: list[str], names: list[str | None]) -> Arguments:
    convert = msgspec.convert

    def decode(message: Message) -> Any:
        try:
            return convert({} if message.body is None else message.body, body_type)
        except msgspec.ValidationError as error:
            raise Misfit(str(error)) from None

    if None in names:
        return lambda message: _mixed(decode(message), message, names)
    if not body_names:

        def nothing(message: Message) -> tuple[Any, ...]:
            if message.body:
                decode(message)
            return ()

        return nothing
    return _all_in_order(body_type)


def _all_in_order(body_type: Any) -> Arguments:
    """As above, where the fields are the parameters: what most messages have, and each call less is a tenth of their cost."""
    convert, fields_of = msgspec.convert, msgspec.structs.astuple

    def decode(message: Message) -> Any:
        try:
            return fields_of(convert({} if message.body is None else message.body, body_type))
        except msgspec.ValidationError as error:
            raise Misfit(str(error)) from None

    return decode


def _mixed(body: Any, message: Message, names: list[str | None]) -> tuple[Any, ...]:
    return tuple(message if name is None else getattr(body, name) for name in names)
