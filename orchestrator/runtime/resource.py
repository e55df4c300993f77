"""How a version declares a resource: what opens it, by which key it is known, how it is closed (DESIGN §5)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import msgspec

from orchestrator.runtime.errors import DefinitionInvalid, ModuleError, ResourceAbsent, error_text

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
Open = Callable[[Any], Coroutine[Any, Any, T]]  # Any: the author's own module
Key = object  # plain data, or a function of the module that gives some
_KEYS = msgspec.msgpack.Encoder(order="deterministic")


class Resource(Generic[T]):
    """A resource as its class declares it. Read on an instance, it is the open object itself."""

    def __init__(self, open_: Open[T], key: Key, close: str | None) -> None:
        if not inspect.iscoroutinefunction(open_):
            raise DefinitionInvalid(
                f"{open_.__qualname__}() is a @resource and must be `async def`: it opens the object and returns it."
            )
        self.open = open_
        self.name = open_.__name__
        self.close = close
        self.__doc__ = open_.__doc__
        self._key = key

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        """Called only before it is open: the open object stands in the instance itself, and costs nothing to read."""
        if instance is None:
            return self
        raise ResourceAbsent(
            f"the resource {self.name!r} of {getattr(instance, 'name', owner.__name__)} is not open here. Resources are "
            "opened in the order of the class, before prepare(); a trial opens none that the version in service has."
        )

    def key_for(self, instance: object) -> bytes:
        """The key as bytes, which compare. Raises ModuleError if it cannot be made or is not plain data."""
        try:
            return _KEYS.encode(self._key(instance) if callable(self._key) else self._key)
        except Exception as error:
            raise ModuleError(f"the key of the resource {self.name!r}: {error_text(error)}") from error


@overload
def resource(open_: Open[T], /) -> Resource[T]: ...
@overload
def resource(*, key: Key = None, close: str | None = None) -> Callable[[Open[T]], Resource[T]]: ...
def resource(open_: Open[T] | None = None, /, *, key: Key = None, close: str | None = None) -> Any:
    """Mark a coroutine method that opens a live object, which then is what reading the method's name gives.

    It is opened once, before prepare(), and kept over every swap; another `key` (plain data, or a function of self
    such as `lambda self: self.config["port"]`) has it opened anew while the version before serves with its own.
    It is closed by its method `close`, by default aclose() or close() if it has one, when no version uses it.

    The object must not be made of the package's own classes or callbacks: it would go on with old code.
    Source: DESIGN §5.
    """
    if open_ is not None:
        return Resource(open_, None, None)
    return lambda function: Resource(function, key, close)


def resources_of(cls: type) -> tuple[Resource[Any], ...]:
    """The resources of a class in the order in which they are written, inherited ones first."""
    names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    found = [inspect.getattr_static(cls, name, None) for name in names]
    return tuple(each for each in found if isinstance(each, Resource))
