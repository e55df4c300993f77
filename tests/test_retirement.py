"""Proof of retirement: nothing is left of a version that was swapped out, or its holder is named with its line."""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CellType, ModuleType
from typing import Any, TypedDict

import pytest
from loguru import logger

from orchestrator.runtime import collecting
from orchestrator.runtime.collecting import no_collection
from orchestrator.runtime.holders import exit_callbacks
from orchestrator.runtime.state import StateCodec
from orchestrator.runtime.table_types import plain_schema
from orchestrator.upgrade.retirements import Leftover, Retirements
from tests.runtime_kit import until
from tests.swapping import Swapper, with_swapper

QUICK = (0.0, 0.01, 0.05)

RICH = """
    from __future__ import annotations
    import abc, asyncio, contextlib, dataclasses, enum, functools, logging, re, typing
    from typing import Generic, NamedTuple, Optional, Protocol, TypedDict, TypeVar
    import msgspec
    from livetag import Module, Message, Table, every, handles, intake, subscribes
    from . import parts
    from rich.parts import Shape

    log = logging.getLogger(__name__)
    T = TypeVar("T")

    class Colour(enum.Enum):
        RED = "red"

    class Fast(msgspec.Struct):
        colour: Colour = Colour.RED
        next: Optional["Fast"] = None

    @dataclasses.dataclass
    class Box(Generic[T]):
        inside: Optional[T] = None

    class Pair(NamedTuple):
        left: int
        right: "Box[int]"

    @typing.runtime_checkable
    class Talks(Protocol):
        def talk(self) -> str: ...

    class Base(abc.ABC):
        @abc.abstractmethod
        def f(self) -> None: ...

    class Real(Base):
        @functools.lru_cache(maxsize=8)
        def f(self) -> None: ...

    @functools.lru_cache(maxsize=None)
    def cached(n: int) -> Box[int]:
        return Box(n)

    @functools.singledispatch
    def show(x: object) -> str:
        return "?"

    @show.register
    def _(x: Fast) -> str:
        return "fast"

    @contextlib.contextmanager
    def around():
        yield Box[int](1)

    PATTERN = re.compile("a+b__%VERSION%")

    class State(TypedDict):
        total: int
        waits: list[str]

    class Row(TypedDict):
        n: int

    class Rich(Module[State]):
        rows: Table[str, Row] = Table(version=1)

        def initial_state(self) -> State:
            return {"total": 0, "waits": []}

        async def prepare(self) -> None:
            self.cycle = [self]
            self.bound = self.work

        @handles
        def work(self, n: int, message: Message, boxes: dict[str, int] = {}) -> int:
            with around():
                cached(n), show(Fast()), show(1), Pair(1, Box()), Real().f(), log.debug("x %s", n)
            isinstance(1, Base), isinstance(Fast(), Talks)
            self.state["total"] += n
            self.task = asyncio.ensure_future(self.short())
            return self.state["total"]

        async def short(self) -> None:
            await asyncio.sleep(0)

        @handles
        def fails(self, n: int) -> None:
            raise parts.Odd(Fast())

        @handles
        async def slowly(self) -> Colour:
            async for x in self.several():
                await asyncio.sleep(0)
            return "red"

        async def several(self):
            for x in range(3):
                yield x

        @subscribes("rich.*")
        def on(self, event: dict) -> None: ...

        @every(seconds=3600.0)
        def often(self) -> None: ...

        @intake
        async def wait(self) -> None:
            await asyncio.sleep(3600)

    @Rich.migrates(1, 2)
    def up(old: dict) -> State:
        return {**old, "waits": []}
    """
PARTS = """
    import enum
    class Odd(Exception):
        def __str__(self): return "odd"
    class Shape(enum.IntEnum):
        ROUND = 1
    def deep():
        from rich.lazy import late
        return late
    """
FILES = {"__init__.py": RICH, "parts.py": PARTS, "lazy.py": "def late(): ...\n"}


async def used(swapper: Swapper, n: int = 1) -> None:
    """Let the version do all that a version does."""
    app = swapper.app
    await app.ask("rich", "work", {"n": n, "boxes": {"a": 1}})
    with pytest.raises(Exception, match="odd"):
        await app.ask("rich", "fails", {"n": n})
    await app.ask("rich", "slowly")
    await app.publish("rich.x", {})
    app.letters.take(next(iter(app.letters)).number)


async def proven(retirements: Retirements, left: list[Any]) -> bool:
    return all([await retirements.prove(remains) for remains in left])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_version_with_all_that_python_offers_is_gone_after_one_quick_collection(
    tmp_path: Path, frozen: bool
) -> None:
    async def story(swapper: Swapper) -> None:
        retirements = Retirements(swapper.app, (0.0, 0.01))
        await swapper.swap(swapper.write("rich", "1.0.0", FILES))
        for number in range(2, 6):
            await used(swapper)
            if frozen:
                gc.freeze()
            left = await swapper.swap(swapper.write("rich", f"{number}.0.0", FILES))
            assert [remains.label for remains in left] == [f"rich {number - 1}.0.0"]
            assert await proven(retirements, left), retirements.leftovers
        bodies = [
            each for each in gc.get_objects() if isinstance(each, type) and each.__name__ == "work_body"
        ]
        assert frozen or len(bodies) == 1, "those of the version in service"
        assert retirements.proven == 4
        assert retirements.full_collections == 0
        assert not retirements.leftovers

    gc.collect()
    gc.disable()  # so that nothing but the proof collects
    try:
        with_swapper(tmp_path, story)
    finally:
        gc.enable()
        gc.unfreeze()


def test_a_removed_module_and_one_that_was_refused_are_gone_too(tmp_path: Path) -> None:
    async def story(swapper: Swapper) -> None:
        retirements = Retirements(swapper.app, (0.0, 0.01))
        await swapper.swap(swapper.write("rich", "1.0.0", FILES))
        await used(swapper)
        refuses = RICH.replace("self.cycle = [self]", "raise ValueError('no')")
        transaction, outcome = await swapper.transact(
            swapper.write("rich", "2.0.0", {**FILES, "__init__.py": refuses})
        )
        assert outcome.result == "rolled_back"
        left = await transaction.retire(outcome)
        assert [remains.label for remains in left] == ["rich 2.0.0"]
        assert await proven(retirements, left), retirements.leftovers
        assert await proven(retirements, await swapper.remove("rich")), retirements.leftovers
        assert "rich" not in swapper.app.modules

    with_swapper(tmp_path, story)


PLAIN = """
    from livetag import Module, handles
    class M(Module[dict]):
        @handles
        def go(self, n: int = 0) -> int:
            return n
    """
HEAD = """
import asyncio, atexit, logging, threading, time, signal, weakref
from livetag import Module, handles
import host_library
"""


def holding(prepare: str, more: str = "") -> dict[str, str]:
    """A package whose version 1 does something in prepare() that outlives it; `#!` marks the line that is to be named."""
    lines = [HEAD, more, "class M(Module[dict]):", "    async def prepare(self) -> None:"]
    lines += [f"        {line}" for line in prepare.strip().splitlines()]
    lines += ["    @handles", "    def go(self, n: int = 0) -> int:", "        return n"]
    lines += ["    def later(self) -> None:  #later", "        pass"]
    lines += ["    async def ever(self) -> None:", "        await asyncio.sleep(3600)  #!"]
    return {"__init__.py": "\n".join(lines) + "\n"}


def line_of(files: dict[str, str], mark: str) -> int:
    return next(n for n, text in enumerate(files["__init__.py"].splitlines(), 1) if mark in text)


THREAD = """
DOOR = threading.Event()
host_library.DOORS.append(DOOR)
def poll():
    DOOR.wait(60)  #thread
"""
HANDLER = """
class Lines(logging.Handler):
    def emit(self, record):  #handler
        pass
"""

LEAKS: dict[str, tuple[dict[str, str], str]] = {
    "a thread": (
        holding("threading.Thread(target=poll, name='poller').start()", THREAD),
        r"^thread 'poller' at leaky/__init__\.py line {#thread}$",
    ),
    "a task": (
        holding("host_library.TASKS.add(asyncio.ensure_future(self.ever()))"),
        r"^task '.+' at leaky/__init__\.py line {#!}$",
    ),
    "a call_later": (
        holding(
            "host_library.TIMERS.append(asyncio.get_running_loop().call_later(60, self.later))\nhost_library.TIMERS.clear()"
        ),
        r"^call_later\(\) holds function M\.later \(leaky/__init__\.py line {#later}\)$",
    ),
    "an exit function": (
        holding("atexit.register(self.later)"),
        r"^atexit\.register\(\) holds function M\.later \(leaky/__init__\.py line {#later}\)$",
    ),
    "a logging handler": (
        holding("logging.getLogger().addHandler(Lines())", HANDLER),
        r"^logging\.root\.handlers\[\d+\] holds an instance of leaky\.Lines \(leaky/__init__\.py line {#handler}\)$",
    ),
    "a registration in a library": (
        holding("host_library.REGISTRY['leaky'] = self.later"),
        r"^host_library\.REGISTRY\['leaky'\] holds function M\.later \(leaky/__init__\.py line {#later}\)$",
    ),
    "a class in a library": (
        holding("host_library.REGISTRY['kind'] = [type(self)]"),
        r"^host_library\.REGISTRY\['kind'\]\[0\] holds class leaky\.M \(leaky/__init__\.py line \d+\)$",
    ),
    "a signal handler": (
        holding("signal.signal(signal.SIGUSR2, lambda *a: None)  #lambda"),
        r"^signal\.signal\(SIGUSR2\) holds function M\.prepare\.<locals>\.<lambda> \(leaky/__init__\.py line {#lambda}\)$",
    ),
    "an attribute of another module": (
        holding("host_library.OTHER().found = self"),
        r"^the attribute 'found' of module other holds an instance of leaky\.M",
    ),
    "the state of another module": (
        holding("host_library.OTHER().state['who'] = {'leaky': self.later}"),
        r"^the state of module other\['who'\]\['leaky'\] holds function M\.later",
    ),
    "a subscription of the event loop": (
        holding(
            "import os\nhost_library.PIPE = os.pipe()\nasyncio.get_running_loop().add_reader(host_library.PIPE[0], self.later)"
        ),
        r"^a reader or writer of the event loop holds function M\.later",
    ),
    "a generator": (
        holding("host_library.REGISTRY['gen'] = (x for x in [self])"),
        r"^host_library\.REGISTRY\['gen'\] holds generator \(leaky/__init__\.py line \d+\)$",
    ),
    "a finalizer": (
        holding(
            "host_library.REGISTRY['kept'] = k = type('K', (), {'__module__': 'host_library'})()\nweakref.finalize(k, self.later)"
        ),
        r"^weakref\.finalize\(\)\[0\] holds function M\.later",
    ),
}


@pytest.fixture
def host_library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A library of the host, which a module may leave something in."""
    library: Any = ModuleType("host_library")
    library.REGISTRY, library.TASKS, library.TIMERS, library.DOORS, library.PIPE = {}, set(), [], [], ()
    monkeypatch.setitem(sys.modules, "host_library", library)
    return library


async def leaked(swapper: Swapper, host_library: Any, files: dict[str, str]) -> tuple[Retirements, Leftover]:
    """A version of `leaky` with these files has left, and is found to be held."""
    await swapper.swap(swapper.write("other", "1.0.0", {"__init__.py": PLAIN}))
    host_library.OTHER = lambda: swapper.app.modules["other"].implementation.instance  # type: ignore[union-attr]
    retirements = Retirements(swapper.app, QUICK)
    await swapper.swap(swapper.write("leaky", "1.0.0", files))
    left = await swapper.swap(swapper.write("leaky", "2.0.0", {"__init__.py": PLAIN}))
    assert not await proven(retirements, left)
    (leftover,) = retirements.leftovers
    return retirements, leftover


@pytest.mark.parametrize("kind", LEAKS)
def test_what_a_version_leaves_behind_is_named_with_its_line(
    tmp_path: Path, host_library: Any, kind: str
) -> None:
    files, says = LEAKS[kind]

    async def story(swapper: Swapper) -> None:
        retirements, leftover = await leaked(swapper, host_library, files)
        assert leftover.remains.label == "leaky 1.0.0"
        pattern = re.sub(r"\{(#.+?)\}", lambda mark: str(line_of(files, mark[1])), says)
        assert [x for x in leftover.held_by if re.search(pattern, x)], leftover.held_by
        _let_go(host_library)
        await until(leftover.remains.collect)
        assert not retirements.leftovers

    with_swapper(tmp_path, story)


def test_a_version_that_was_held_is_looked_at_again_when_the_next_one_leaves(
    tmp_path: Path, host_library: Any
) -> None:
    """What its holder let go of is garbage in a circle, and nobody else would collect it before a full collection."""
    files, _ = LEAKS["a registration in a library"]

    async def story(swapper: Swapper) -> None:
        retirements, leftover = await leaked(swapper, host_library, files)
        with no_collection():
            _let_go(host_library)
            assert not leftover.remains.gone
            retirements.begin(await swapper.swap(swapper.write("leaky", "3.0.0", {"__init__.py": PLAIN})))
            await until(lambda: leftover.remains.gone)
        assert not retirements.leftovers

    with_swapper(tmp_path, story)


def test_what_is_compared_of_two_versions_leaves_no_circle_that_holds_them() -> None:
    class Row(TypedDict):
        n: int

    gc.collect()
    gc.disable()
    try:
        for describe in (plain_schema, lambda type_: StateCodec(type_).schema):
            assert describe(Row)
            left = [each for each in gc.get_objects() if type(each) is CellType and _holds(each, Row)]
            assert not left, "msgspec's own function, which calls itself"
    finally:
        gc.enable()


def _holds(cell: CellType, cls: type) -> bool:
    with suppress(ValueError):  # an empty one
        return isinstance(cell.cell_contents, dict) and cls in cell.cell_contents
    return False


def test_what_only_says_that_it_is_a_class_is_no_part_of_a_version(tmp_path: Path, host_library: Any) -> None:
    """On 3.10 `list[int]` does, and typing gives the same one to every version: it lives on, and holds nobody."""

    class Says:
        __class__ = type  # type: ignore[assignment]  # as the __class__ of list[int] is list's there

    host_library.REGISTRY["alias"] = Says()
    assert isinstance(host_library.REGISTRY["alias"], type)
    files = holding(
        "self.alias = host_library.REGISTRY['alias']", "import typing\nLines = typing.Optional[list[int]]"
    )

    async def story(swapper: Swapper) -> None:
        await swapper.swap(swapper.write("leaky", "1.0.0", files))
        retirements = Retirements(swapper.app, QUICK)
        assert await proven(retirements, await swapper.swap(swapper.write("leaky", "2.0.0", files)))
        assert retirements.full_collections == 0

    with_swapper(tmp_path, story)


def _let_go(library: Any) -> None:
    for door in library.DOORS:
        door.set()
    library.DOORS.clear()
    for thread in threading.enumerate():
        if thread.name == "poller":
            thread.join(5)
    for task in library.TASKS:
        task.cancel()
    library.TASKS.clear()
    library.REGISTRY.clear()
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    vars(library.OTHER()).pop("found", None)
    library.OTHER().state.clear()
    logging.root.handlers[:] = [h for h in logging.root.handlers if "leaky" not in type(h).__module__]
    loop = asyncio.get_running_loop()
    for handle in list(loop._scheduled):  # type: ignore[attr-defined]
        if getattr(handle._callback, "__name__", "") == "later":
            handle.cancel()
            loop._scheduled.remove(handle)  # type: ignore[attr-defined]
    if library.PIPE:
        loop.remove_reader(library.PIPE[0])
        for end in library.PIPE:
            os.close(end)
    for callback in _exits():
        atexit.unregister(callback)


def _exits() -> list[Callable[..., object]]:
    return [c for c in exit_callbacks() if getattr(c, "__name__", "") == "later"]  # type: ignore[misc]


def test_the_log_that_no_walk_from_a_version_goes_into_is_loguru_s() -> None:
    core = type(logger._core)  # type: ignore[attr-defined]
    assert (core.__module__, core.__qualname__) == collecting._LOG
