"""What an author writes: a class of handlers around a typed state (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar, overload

import msgspec

from orchestrator.runtime.errors import DefinitionInvalid, NotInService
from orchestrator.runtime.state import Step
from orchestrator.runtime.upcasts import Upcast

if TYPE_CHECKING:
    from loguru import Logger

    from orchestrator.runtime.sources import Sources
    from orchestrator.runtime.voice import Voice

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Any])  # Any: an author's method has its own parameters
R = TypeVar("R")

MARK = "__livetag__"
UNTOUCHED = (
    "_untouched"  # the attribute that holds the state of a version in service until its code touches it
)


class Mark(msgspec.Struct, frozen=True):
    """What a decorator says of a method: its role, and the type, pattern or period that goes with it."""

    role: str
    name: str = ""
    seconds: float = 0.0
    thread: bool = False
    again: bool | None = None
    each: bool = False
    drop_oldest: bool = False
    upcast: Upcast | None = None


def _mark(function: F, mark: Mark) -> F:
    marks: tuple[Mark, ...] = getattr(function, MARK, ())
    setattr(function, MARK, (*marks, mark))
    return function


@overload
def handles(name: F, /) -> F: ...
@overload
def handles(
    name: str | None = None, /, *, thread: bool = False, again: bool | None = None
) -> Callable[[F], F]: ...
def handles(name: F | str | None = None, /, *, thread: bool = False, again: bool | None = None) -> Any:
    """Mark a method as the handler of a message type: its own name, or `name`.

    `thread` runs it in a thread, so that it may block: `state` is its own meanwhile, as in any unit, and the unit ends
    when the function has returned. There `send` and `publish` work as ever; for `ask` there is `ask_blocking`. A thread
    cannot be stopped: one that never returns is reported with its line, and no upgrade of its module can happen.

    `again` is for a message on which this version fails in its probation: may the version that comes back handle it? By
    itself, it does where the first try left no trace: a send or an event, whose unit asked nobody and touched no source,
    of a module that is durable, or that has all its state in Tables (it never used `self.state`). True: it does whatever
    the unit had done, because twice is as good as once. False: never, because the handler has effects that nobody sees
    (a file, a socket, a mail). An ask is never given again: who asked was told. Source: DESIGN §5, §7.7.
    """
    if callable(name):
        return _mark(name, Mark("handles"))
    if name == "":
        raise DefinitionInvalid('@handles("") names no type. Write @handles for the method\'s own name.')
    return lambda function: _mark(function, Mark("handles", name or "", thread=thread, again=again))


def subscribes(
    pattern: str, /, *, thread: bool = False, again: bool | None = None, drop_oldest: bool = False
) -> Callable[[F], F]:
    """Mark a method as the receiver of each event whose topic matches; a trailing `*` takes every ending.

    `thread` and `again` are those of `handles`. With `drop_oldest` a full mailbox keeps no publisher waiting: the oldest
    waiting event of this subscription is given up for the new one (or the new one, if none waits), counted, no dead letter.
    """
    mark = Mark("subscribes", pattern, thread=thread, again=again, drop_oldest=drop_oldest)
    return lambda function: _mark(function, mark)


def upcasts(type: str, before: int, after: int, /) -> Callable[[F], F]:  # noqa: A002  # the field's word
    """Mark a method that takes the fields of an older body of `type`, and returns a body of the next shape.

    Shapes are counted from 1, oldest first; the newest is what the handler takes. It is only called for a body that does
    not fit the handler, and must be plain: no state, no send. Source: DESIGN §7.1.
    """
    return lambda function: _mark(function, Mark("upcasts", upcast=Upcast(type, before, after)))


def every(*, seconds: float, thread: bool = False) -> Callable[[F], F]:
    """Mark a method to be called once per period, as a unit of its own; ticks never pile up.

    `thread` is that of `handles`.
    """
    return lambda function: _mark(function, Mark("every", seconds=seconds, thread=thread))


@overload
def intake(function: F, /) -> F: ...
@overload
def intake(*, each: bool = False) -> Callable[[F], F]: ...
def intake(function: F | None = None, /, *, each: bool = False) -> Any:
    """Mark a coroutine method that waits for input, touches no state, and returns the body of a message of its name.

    It consumes nothing unless it returns, as a swap interrupts it wherever it waits: so it reads by one await that
    gives a whole item (`readline`, `readuntil`, `readexactly`, `sock_recv`), or keeps what it has so far in an object
    that lives on: the source, or a resource. With `each`, it takes a source and is run for each that was attached.
    """
    if function is not None:
        return _mark(function, Mark("intake"))
    return lambda function: _mark(function, Mark("intake", each=each))


class Module(Generic[S]):
    """Base class of a module's implementation: subclass it with the type of the state.

    One instance is one loaded version. The framework makes it; a subclass has no `__init__`.
    """

    state_version: ClassVar[int] = 1
    _migrations: ClassVar[dict[tuple[int, int], Step]] = {}
    _table_steps: ClassVar[dict[str, dict[tuple[int, int], Step]]] = {}

    state: S
    name: str
    version: str
    config: Mapping[str, Any]  # Any: the composition's own values
    log: Logger
    _voice: Voice | None = None
    _sources: Sources | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._migrations = dict(cls._migrations)  # each class has its own steps, beside what it inherits
        cls._table_steps = {name: dict(steps) for name, steps in cls._table_steps.items()}

    @overload
    @classmethod
    def migrates(cls, before: int, after: int, /) -> Callable[[F], F]: ...
    @overload
    @classmethod
    def migrates(cls, table: str, before: int, after: int, /) -> Callable[[F], F]: ...
    @classmethod
    def migrates(cls, *between: Any) -> Callable[[F], F]:
        """Register a step that takes a state of version `before` and returns one of version `after`.

        With the name of a Table first, a step of its records: a pure function of the key and one record, as plain data
        (lists for tuples), run when the record is touched first or by the sweep. Source: DESIGN §5.
        """
        *table, before, after = between

        def register(step: F) -> F:
            steps = cls._table_steps.setdefault(table[0], {}) if table else cls._migrations
            steps[before, after] = step
            return step

        return register

    def initial_state(self) -> S:
        """The state of a first start; overridden unless the state is a plain dict."""
        return {}  # type: ignore[return-value]  # right for the untyped state, the author's to say for others

    async def prepare(self) -> None:
        """Make ready before the switch, while the old version serves. May raise: votes no."""

    async def self_test(self) -> None:
        """Raise to say that this version is unfit."""

    def hand_over(self) -> dict[str, Any]:
        """Give live resources to the next version, in the switch: quick, no I/O."""
        return {}

    def take_over(self, resources: dict[str, Any]) -> None:
        """Take what the version before handed over, in the switch: quick, no I/O, no state yet."""

    async def stop(self) -> None:
        """Let go of everything; called exactly once, whether this instance served or not."""

    def send(
        self,
        name: str,
        type: str,  # noqa: A002  # the field's word
        body: object = None,
        *,
        wait_s: float | None = None,
    ) -> None:
        """Send a message when this unit of work ends.

        With `wait_s` the name may be unbound: what this unit gave out waits, in order, for so many seconds from now, and is
        then a dead letter; the next unit begins after that. An ask never waits for a name.

        Raises UnknownName at once if nothing is bound to the name, NotInService outside a unit of a serving version.
        """
        self._serving("send").send(name, type, body, wait_s)

    def bound(self, name: str) -> bool:
        """Whether a message could be sent to the name now. Raises NotInService before service."""
        return self._serving("bound").proxy.app.names.find(name) is not None

    def publish(self, topic: str, body: object = None) -> None:
        """Publish an event when this unit of work ends. Raises NotInService outside a unit of a serving version."""
        self._serving("publish").publish(topic, body)

    @overload
    def ask(self, name: str, type: str, body: object = None, *, timeout_s: float = 5.0) -> Awaitable[Any]: ...
    @overload
    def ask(
        self, name: str, type: str, body: object = None, *, timeout_s: float = 5.0, returns: type[R]
    ) -> Awaitable[R]: ...
    def ask(
        self,
        name: str,
        type: str,  # noqa: A002
        body: object = None,
        *,
        timeout_s: float = 5.0,
        returns: Any = None,
    ) -> Awaitable[Any]:
        """Send a message and wait for the reply, decoded as `returns` if given.

        Raises UnknownName, AskCycle, AskTimeout, HandlerFailed, NotInService (in a thread, too: see `ask_blocking`).
        """
        voice = self._serving("ask")
        if voice.proxy.thread is not None:
            voice.refuse_in_thread()
        return voice.ask(name, type, body, timeout_s, returns)

    @overload
    def ask_blocking(self, name: str, type: str, body: object = None, *, timeout_s: float = 5.0) -> Any: ...
    @overload
    def ask_blocking(
        self, name: str, type: str, body: object = None, *, timeout_s: float = 5.0, returns: type[R]
    ) -> R: ...
    def ask_blocking(
        self,
        name: str,
        type: str,  # noqa: A002
        body: object = None,
        *,
        timeout_s: float = 5.0,
        returns: Any = None,
    ) -> Any:
        """`ask` for a handler that runs in a thread: waits there, and returns the reply.

        Raises what `ask` raises; NotInService anywhere else, where it would hold up the event loop.
        """
        return self._serving("ask_blocking").ask_blocking(name, type, body, timeout_s, returns)

    def attach(self, name: str, source_id: str | int, source: object) -> None:
        """Have a source read by the @intake(each=True) `name`, in a task of its own, over all swaps until it ends.

        `source` is whatever that method takes, such as a socket, or an awaitable that gives it, which no swap
        interrupts: `asyncio.open_connection(sock=conn)`. What the method returns arrives as the message `name`
        {"source": source_id, "item": item}. An EOFError, or a connection that is lost, arrives as `name.closed`
        {"source", "reason"}; when that was handled, the source is closed by its aclose() or close() (of a tuple, each
        one's). Any other error is tried again after 0.1 s, doubling to 30 s. Source: DESIGN §5.

        Raises SourceRefused (no such intake, an id that is taken), NotInService before service and in a thread.
        """
        self._attached("attach").attach(name, source_id, source)

    def detach(self, name: str, source_id: str | int) -> None:
        """Read a source no more, and close it; no `name.closed` comes. Nothing happens if it has ended already.

        Raises NotInService before service and in a thread.
        """
        self._attached("detach").detach(name, source_id)

    def sources(self, name: str) -> Mapping[str | int, Any]:
        """The sources that the @intake(each=True) `name` reads now, id → source, to write to them; a read-only view."""
        return self._attached("sources").objects(name)

    def _attached(self, what: str) -> Sources:
        if self._sources is None:
            raise NotInService(
                f"{what}() was called on an implementation of {getattr(self, 'name', type(self).__name__)} that has not "
                "served yet. Use it in intakes and handlers."
            )
        return self._sources

    def _serving(self, what: str) -> Voice:
        if self._voice is None:
            raise NotInService(
                f"{what}() was called on an implementation of {getattr(self, 'name', type(self).__name__)} that is not "
                "in service. Send from a handler, a tick or an event; prepare() and stop() have no mailbox."
            )
        return self._voice

    def __getattr__(self, name: str) -> NoReturn:  # for a type checker; it does return the state
        if name == "state":  # set when it is touched first, so that a handler pays once for this check
            own = self.__dict__
            untouched = own.get(UNTOUCHED)
            if untouched is not None:
                own.setdefault("state", untouched[0])
                own.pop(UNTOUCHED, None)
            if "state" in own:  # by now: a thread may have been faster
                return own["state"]  # type: ignore[misc]
            raise NotInService(
                f"{self.__dict__.get('name', type(self).__name__)} has no state before it serves. "
                "Use it in handlers; the first state comes from initial_state()."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
