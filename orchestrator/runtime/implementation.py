"""One loaded version of a module: its instance, its handlers, its life from construction to stop (paper §3.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.errors import HandlerFailed, StateInvalid, error_text
from orchestrator.runtime.handlers import Arguments, Handler
from orchestrator.runtime.loader import Loaded, author_line
from orchestrator.runtime.module import UNTOUCHED, Module
from orchestrator.runtime.upcasts import Upcasting

if TYPE_CHECKING:
    from orchestrator.runtime.voice import Voice


class BoundHandler:
    """A handler of one instance: what a unit of work calls."""

    __slots__ = ("again", "arguments", "call", "is_async", "method")

    def __init__(self, handler: Handler, instance: Module[Any]) -> None:
        self.method = handler.method
        self.arguments: Arguments = Upcasting(handler, instance) if handler.upcasts else handler.arguments
        self.is_async = handler.is_async or handler.thread
        self.again: bool | None = handler.again
        method: Callable[..., Any] = getattr(instance, handler.method)  # Any: the author's signature
        self.call = _in_thread(instance, method) if handler.thread else method


def _in_thread(instance: Module[Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """A method as a coroutine function that runs it in a thread of the application's."""

    async def call(*arguments: Any) -> Any:
        return await instance._serving(method.__name__).proxy.pump.in_thread(method, *arguments)  # noqa: SLF001

    return call


def _nothing() -> None:
    """Called for a tick that nobody waits for any more."""


class _NoHandler(BoundHandler):
    __slots__ = ()

    def __init__(self) -> None:
        self.method, self.is_async, self.again = "", False, None
        self.arguments = lambda _message: ()
        self.call = _nothing


NOTHING: Final = _NoHandler()


class Implementation:
    """A version beside others: constructed, prepared, in service, stopped. It never runs before `attach`."""

    __slots__ = (
        "__weakref__",
        "blueprint",
        "entry",
        "handlers",
        "instance",
        "loaded",
        "name",
        "stopped",
        "version",
    )

    def __init__(
        self,
        blueprint: Blueprint,
        *,
        name: str,
        version: str,
        config: Mapping[str, Any],
        loaded: Loaded | None = None,
        entry: str = "",
    ) -> None:
        from loguru import logger  # 11 ms of a child that only looks at what a release is

        self.blueprint = blueprint
        self.name = name
        self.version = version
        self.loaded = loaded
        self.entry = entry
        self.stopped = False
        self.instance: Module[Any] = blueprint.cls()
        self.instance.name = name
        self.instance.version = version
        self.instance.config = config
        self.instance.log = logger.bind(module=name, version=version)
        self.handlers = {type_: BoundHandler(h, self.instance) for type_, h in blueprint.handlers.items()}

    @property
    def state(self) -> Any:
        """What the author's code has as `self.state`; to look at it here is no touch of his."""
        own = vars(self.instance)
        return own["state"] if "state" in own else own[UNTOUCHED][0]

    @state.setter
    def state(self, state: object) -> None:
        own = vars(self.instance)
        if "state" in own:
            own["state"] = state
            own.pop(UNTOUCHED, None)
        else:
            own[UNTOUCHED] = (state,)

    @property
    def state_touched(self) -> bool:
        """Whether the author's code has read or written `self.state` since this version came into service."""
        return "state" in vars(self.instance)

    def first_state(self) -> Any:
        """A checked `initial_state()`. Raises StateInvalid, or what the author's code raises."""
        state = self.instance.initial_state()
        try:
            self.blueprint.codec.copy(state)
        except StateInvalid as error:
            raise StateInvalid(f"initial_state(): {error}") from None
        return state

    def check(self, state: bytes) -> None:
        """Does an encoded state fit this version's type? Raises StateInvalid, which names version and field."""
        try:
            self.blueprint.codec.decode(state)
        except StateInvalid as error:
            raise StateInvalid(
                f"{self.name} {self.version}, state version {self.blueprint.state_version}: {error}"
            ) from None

    def attach(self, voice: Voice, state: object) -> None:
        """Enter service: from here `state`, `send`, `publish` and `ask` work. Cannot raise."""
        vars(self.instance)[UNTOUCHED] = (state,)
        self.instance._voice = voice  # noqa: SLF001  # the runtime is its other side
        # For good: an intake that has just accepted a connection attaches it, though a switch has been meanwhile.
        self.instance._sources = voice.proxy.intakes.sources  # noqa: SLF001

    def detach(self) -> None:
        """Leave service: what is left of this version can no longer speak."""
        self.instance._voice = None  # noqa: SLF001

    def forget_state(self) -> None:
        """Let go of the state, which is the next version's by now. After `stop()`, which may read it."""
        for name in ("state", UNTOUCHED):
            vars(self.instance).pop(name, None)

    async def stop(self) -> None:
        """Let the author's `stop()` run, once, whatever it raises."""
        if self.stopped:
            return
        self.stopped = True
        try:
            await self.instance.stop()
        except BaseException as error:  # noqa: BLE001  # sys.exit() in a version that leaves must not end the host
            from loguru import logger

            logger.bind(module=self.name).warning(
                "stop() of {} {} raised {}", self.name, self.version, error_text(error)
            )

    def failure(self, type_: str, error: BaseException) -> HandlerFailed:
        """An error of the author's code as a sentence, without the author's classes (they would pin the old version)."""
        where = author_line(error, self.loaded)
        return HandlerFailed(f"{self.name} {self.version} failed on {type_!r}: {error_text(error)} ({where})")
