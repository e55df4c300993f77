"""What an author writes, and what is refused with what to do instead."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Generic, TypedDict, TypeVar

import pytest

from livetag import Message, Module, every, handles, intake, subscribes
from orchestrator.runtime.blueprint import Blueprint, describe, state_type
from orchestrator.runtime.errors import DefinitionInvalid, NotInService, StateInvalid
from orchestrator.runtime.implementation import Implementation
from tests.runtime_kit import Plain, implement, running


class State(TypedDict):
    total: int


class Counter(Module[State]):
    state_version = 2

    def initial_state(self) -> State:
        return {"total": 0}

    @handles
    def tick(self, key: str, by: int = 1) -> int:
        self.state["total"] += by
        return self.state["total"]

    @handles("other-name")
    async def other(self, message: Message) -> int:
        return message.id

    @subscribes("clock.*")
    def on_clock(self, event: dict[str, Any]) -> None: ...

    @every(seconds=1.5)
    def report(self) -> None: ...

    @intake
    async def read(self) -> int:
        return 1


@Counter.migrates(1, 2)
def up(old: dict[str, Any]) -> State:
    return {"total": old["n"]}


def test_a_class_is_compiled_into_what_the_runtime_needs() -> None:
    blueprint = Blueprint(Counter)
    assert set(blueprint.handlers) == {"tick", "other-name", "@clock.*", "%report"}
    assert blueprint.handlers["other-name"].is_async
    assert blueprint.subscriptions == ("clock.*",)
    assert blueprint.timers == {"report": 1.5}
    assert blueprint.intakes == ("read",)
    assert (blueprint.state_version, list(blueprint.steps)) == (2, [(1, 2)])
    assert blueprint.codec.type is State


def test_the_description_is_data_without_the_runtimes_own_types() -> None:
    found = describe(Blueprint(Counter), "counter:Counter")
    assert set(found.handles) == {"tick", "other-name"}
    assert found.subscribes == ("clock.*",)
    assert found.migrations == ((1, 2),)
    assert found.entry == "counter:Counter"
    assert "total" in str(found.state_schema)


def test_handlers_stay_plain_methods_that_can_be_called() -> None:
    counter = Counter()
    counter.state = {"total": 3}
    assert counter.tick("a", by=2) == 5


def test_steps_belong_to_the_class_they_were_registered_on() -> None:
    class Child(Counter):
        state_version = 3

    @Child.migrates(2, 3)
    def on(old: State) -> State:
        return old

    assert set(Blueprint(Child).steps) == {(1, 2), (2, 3)}
    assert set(Blueprint(Counter).steps) == {(1, 2)}


def test_the_state_type_is_found_through_generic_bases() -> None:
    S = TypeVar("S")

    class Base(Module[S], Generic[S]):
        pass

    class Middle(Base[State]):
        pass

    class Leaf(Middle):
        pass

    class Untyped(Module):  # type: ignore[type-arg]
        pass

    assert state_type(Leaf) is State
    assert state_type(Middle) is State
    assert state_type(Untyped) == dict[str, Any]


def test_an_own_init_is_refused() -> None:
    class Bad(Plain):
        def __init__(self) -> None: ...

    with pytest.raises(DefinitionInvalid, match=r"Bad has an __init__.*prepare\(\).*initial_state\(\)"):
        Blueprint(Bad)


@pytest.mark.parametrize("version", [0, -1, "1", True, 1.0, None])
def test_a_state_version_is_a_whole_number_from_one(version: Any) -> None:
    class Bad(Plain):
        state_version = version

    with pytest.raises(DefinitionInvalid, match="whole number from 1"):
        Blueprint(Bad)


def method(self: object) -> None: ...


async def coroutine(self: object) -> None: ...


def copy_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own: a mark stays on the one that is decorated."""

    @functools.wraps(function)
    def copied(self: object) -> Any:
        return function(self)

    return copied


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("m", lambda: handles("@clock")(copy_of(method)), "cannot begin with @ or %"),
        ("m", lambda: handles("%report")(copy_of(method)), "cannot begin with @ or %"),
        ("m", lambda: subscribes("")(copy_of(method)), "a pattern is a topic"),
        ("m", lambda: subscribes("a.*.b")(copy_of(method)), "a pattern is a topic"),
        ("m", lambda: every(seconds=0)(copy_of(method)), "above 0"),
        ("m", lambda: every(seconds=-1)(copy_of(method)), "above 0"),
        ("m", lambda: every(seconds=float("nan"))(copy_of(method)), "above 0"),
        ("m", lambda: every(seconds="1")(copy_of(method)), "above 0"),  # type: ignore[arg-type]
        ("m", lambda: intake(copy_of(method)), "must be `async def`"),
        ("m", lambda: handles(thread=True)(copy_of(coroutine)), "is `async def` and cannot run in a thread"),
        ("send", lambda: handles(copy_of(method)), r"Bad\.send is the framework's own.*@handles\(\"send\"\)"),
        ("state", lambda: handles(copy_of(method)), "framework's own"),
        ("stop", lambda: handles(copy_of(coroutine)), "framework's own"),
        ("m", lambda: staticmethod(handles(copy_of(method))), "must be a plain method"),
        ("m", lambda: classmethod(handles(copy_of(method))), "must be a plain method"),
    ],
)
def test_what_would_never_be_called_is_refused(name: str, value: Callable[[], object], says: str) -> None:
    bad: Any = types.new_class("Bad", (Plain,), {}, lambda body: body.update({name: value()}))
    with pytest.raises(DefinitionInvalid, match=says):
        Blueprint(bad)


def test_an_empty_type_is_refused_where_it_is_written() -> None:
    with pytest.raises(DefinitionInvalid, match="names no type"):
        handles("")


def test_a_type_that_is_handled_twice_names_both() -> None:
    class Bad(Plain):
        @handles
        def tick(self) -> None: ...

        @handles("tick")
        def tock(self) -> None: ...

    with pytest.raises(DefinitionInvalid, match=r"handles 'tick' twice: in tick\(\) and in tock\(\)"):
        Blueprint(Bad)


def test_one_method_may_have_several_roles() -> None:
    class Many(Plain):
        @handles
        @handles("again")
        @subscribes("topic")
        @every(seconds=1)
        def work(self) -> None: ...

    assert set(Blueprint(Many).handlers) == {"work", "again", "@topic", "%work"}


def test_a_decorated_handler_is_called_under_its_own_name_and_awaited() -> None:
    def loud(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(self: Any, key: str) -> Any:
            return function(self, key.upper())

        return wrapper

    def nameless(function: Any) -> Any:
        def wrapper(self: Any, key: str) -> Any:
            return function(self, key)

        return wrapper

    class Decorated(Plain):
        @handles
        @loud
        async def shout(self, key: str) -> str:
            return key

        @handles
        @nameless
        def tell(self, key: str) -> str:
            return key

    async def story() -> None:
        async with running({"m": Decorated}) as app:
            assert await app.ask("m", "shout", {"key": "a"}) == "A"
            assert await app.ask("m", "tell", {"key": "a"}) == "a"

    asyncio.run(story())


def test_before_service_there_is_no_state_and_nobody_to_talk_to() -> None:
    implementation = implement(Counter, "counter")
    instance = implementation.instance
    with pytest.raises(NotInService, match="counter has no state before it serves"):
        _ = instance.state
    for call in (
        lambda: instance.send("x", "y"),
        lambda: instance.publish("x"),
        lambda: instance.ask("x", "y"),
    ):
        with pytest.raises(NotInService, match="not in service"):
            call()
    with pytest.raises(AttributeError, match="'Counter' object has no attribute 'sate'"):
        _ = instance.sate
    assert (instance.name, instance.version, instance.config) == ("counter", "1.0.0", {})


def test_a_version_that_left_service_can_no_longer_speak() -> None:
    async def story() -> None:
        async with running({"counter": Counter}) as app:
            proxy = app.modules["counter"]
            old = proxy.implementation
            assert old is not None
            proxy.serve(implement(Counter, "counter", "2.0.0"), old.state)
            with pytest.raises(NotInService, match="not in service"):
                old.instance.send("counter", "tick", {"key": "a"})

    asyncio.run(story())


def test_the_first_state_is_checked_and_the_error_names_version_and_field() -> None:
    class Bad(Counter):
        def initial_state(self) -> State:
            return {"totl": 0}  # type: ignore[typeddict-unknown-key,typeddict-item]

    with pytest.raises(StateInvalid, match="missing required field `total`"):
        implement(Bad, "bad").first_state()


def test_a_state_type_that_is_not_plain_data_is_refused() -> None:
    class Odd(Module[Callable[[], int]]):  # type: ignore[type-var, unused-ignore]
        pass

    with pytest.raises((StateInvalid, DefinitionInvalid)):
        describe(Blueprint(Odd), "odd:Odd")


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit()]
)
def test_stop_runs_once_and_nothing_it_raises_gets_out(error: BaseException) -> None:
    calls = []

    class Noisy(Plain):
        async def stop(self) -> None:
            calls.append(1)
            raise error

    async def story() -> None:
        implementation = Implementation(Blueprint(Noisy), name="noisy", version="1", config={})
        await asyncio.ensure_future(implementation.stop())
        await implementation.stop()

    asyncio.run(story())
    assert calls == [1]


def test_the_price_of_a_state_in_decimal_is_no_reason_to_refuse_it() -> None:
    class Priced(TypedDict):
        price: Decimal

    class Shop(Module[Priced]):
        def initial_state(self) -> Priced:
            return {"price": Decimal("1.50")}

    assert implement(Shop, "shop").first_state() == {"price": Decimal("1.50")}
