"""Who holds a version that ought to be gone: the way to it from something that a person knows (DESIGN §7.8).

A search forward, from tasks, threads, callbacks, the other modules and every module of the process, breadth first, so that
the nearest name is found. In a thread, in small steps of Python, so that the event loop goes on; it reads references only
and runs no code of anybody's.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from itertools import pairwise
from types import FunctionType
from typing import NamedTuple

from orchestrator.runtime.application import Application
from orchestrator.runtime.module import UNTOUCHED
from orchestrator.runtime.ownership import Owner, awaited_by, frame_of, namespaces_of_modules, public_name

OBJECTS_MAX = 400_000
HOLDERS_MAX = 5


class Root(NamedTuple):
    """Where a search begins: what a person calls it, and the object. `told`: the name says all that there is to say."""

    name: str
    thing: object
    told: bool = False


def loop_roots(owner: Owner, app: Application) -> list[Root]:
    """Tasks, callbacks of the event loop, and the modules of the application. Call it on the loop."""
    loop = asyncio.get_running_loop()
    roots = [_task_root(owner, task) for task in asyncio.all_tasks(loop)]
    for kind, attribute in (("call_later()", "_scheduled"), ("a callback of the event loop", "_ready")):
        handles = list(getattr(loop, attribute, ()))  # not every event loop shows them
        roots += [Root(kind, handle._callback) for handle in handles if not handle.cancelled()]  # noqa: SLF001
    roots += [Root("a reader or writer of the event loop", each) for each in _watchers(loop)]
    roots += [Root(f"signal {n}", h) for n, h in getattr(loop, "_signal_handlers", {}).items()]
    for name, proxy in app.modules.items():
        roots += _module_roots(name, proxy)
    return roots


def _watchers(loop: asyncio.AbstractEventLoop) -> list[object]:
    """The callbacks of add_reader() and add_writer(), as far as the event loop shows them."""
    selector = getattr(loop, "_selector", None)
    if selector is None:
        return []
    handles = [handle for key in list(selector.get_map().values()) for handle in key.data]
    return [handle._callback for handle in handles if handle is not None]  # noqa: SLF001


def _module_roots(name: str, proxy: object) -> Iterator[Root]:
    implementation = getattr(proxy, "implementation", None)
    if implementation is not None:
        values = dict(vars(implementation.instance))
        values.pop("_port", None)
        for state in ("state", UNTOUCHED):
            yield Root(f"the state of module {name}", values.pop(state, None))
        yield from (Root(f"the attribute {key!r} of module {name}", value) for key, value in values.items())
    yield Root(f"the mailbox of module {name}", [m.body for m in getattr(proxy, "mailbox").queue])  # noqa: B009


def _task_root(owner: Owner, task: asyncio.Task[object]) -> Root:
    """A task, by the innermost line of the version that it waits in."""
    ahead: object = task.get_coro()
    line = ""
    while ahead is not None:
        line = owner.line(frame_of(ahead)) or line
        ahead = awaited_by(ahead)
    where = f" at {line}" if line else ""
    return Root(f"task {task.get_name()!r}{where}", task, told=bool(line))


def process_roots(owner: Owner) -> Iterator[Root]:
    """Threads, exit and signal handlers, and the names of every module that is not the version's own."""
    yield from _threads(owner)
    for info in list(getattr(weakref.finalize, "_registry", {}).values()):
        yield Root("weakref.finalize()", (info.func, info.args, info.kwargs))
    yield from (Root("atexit.register()", callback) for callback in exit_callbacks())
    for number in signal.valid_signals():
        with suppress(ValueError, OSError):
            yield Root(f"signal.signal({signal.Signals(number).name})", signal.getsignal(number))
    for name, names in namespaces_of_modules():
        if not owner.owns(names) and not name.startswith(_OURS):
            yield Root(public_name(name), names)


_OURS = ("orchestrator.runtime.holders", "orchestrator.runtime.retirement")


def _threads(owner: Owner) -> Iterator[Root]:
    named = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  # there is no other way to a thread's line
        if ident == threading.get_ident():
            continue
        thread = named.get(ident)
        name = f"thread {thread.name!r}" if thread is not None else f"a thread ({ident})"
        if line := owner.line(frame):
            yield Root(f"{name} at {line}", thread, told=True)
        else:
            yield Root(name, thread)


class _Compared:
    """Equal to nothing; remembers what it was compared with."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def __eq__(self, other: object) -> bool:
        self.seen.append(other)
        return False

    __hash__ = None  # type: ignore[assignment]


def exit_callbacks() -> list[object]:
    """What `atexit` will call. It shows them to nobody but whoever asks to be compared with each."""
    compared = _Compared()
    with suppress(Exception):  # an author's own __eq__ may raise
        atexit.unregister(compared)  # type: ignore[arg-type]  # equal to none, so nothing is unregistered
    return compared.seen


def find_holders(owner: Owner, roots: Iterable[Root]) -> list[str]:
    """The nearest holders, each as one phrase with its line; none if none is found among OBJECTS_MAX objects."""
    found: dict[str, None] = {}
    seen: dict[
        int, tuple[object, int]
    ] = {}  # id → the object, kept so that its id stays its own, and who led to it
    names: dict[int, str] = {}
    ahead: deque[object] = deque()
    for root in roots:
        if root.told:
            found[root.name] = None
        if root.thing is not None and id(root.thing) not in seen:
            seen[id(root.thing)] = (root.thing, 0)
            names[id(root.thing)] = root.name
            if not root.told:
                ahead.append(root.thing)
    hidden = {id(each) for each in (found, seen, names, ahead)}
    while ahead and len(found) < HOLDERS_MAX and len(seen) < OBJECTS_MAX:
        thing = ahead.popleft()
        if owner.owns(thing):
            found[_phrase(owner, seen, names, thing)] = None
            continue
        for each in gc.get_referents(thing):
            if id(each) in seen or id(each) in hidden:
                continue
            if gc.is_tracked(each) or owner.owns_class(type(each)):
                seen[id(each)] = (each, id(thing))
                ahead.append(each)
    return list(found)


def _phrase(owner: Owner, seen: dict[int, tuple[object, int]], names: dict[int, str], thing: object) -> str:
    chain = [thing]
    while (parent := seen[id(chain[-1])][1]) != 0:
        chain.append(seen[parent][0])
    chain.reverse()
    path = names[id(chain[0])]
    return f"{path}{_steps(chain)}{_whose(path)} holds {owner.describe(thing)}"


def _whose(path: str) -> str:
    """The distribution that a module is from, if it is from one."""
    top = path.partition(".")[0]
    if top in sys.stdlib_module_names or top not in sys.modules:
        return ""
    with suppress(Exception):  # metadata that cannot be read
        return "".join(
            f" of distribution {name}" for name in metadata.packages_distributions().get(top, ())[:1]
        )
    return ""


def _steps(chain: Sequence[object]) -> str:
    """How one gets from each of the chain to the next, as it would be written: `.handlers[0]`."""
    text = ""
    before: object = None
    for holder, held in pairwise(chain):
        if type(holder) is dict:
            named = _attributes(before) is holder or "__spec__" in holder
            text += _entry(holder, held, named=named)
        elif isinstance(holder, (list, deque)) or (
            isinstance(holder, tuple) and type(before) is not FunctionType
        ):
            text += next((f"[{i}]" for i, each in enumerate(list(holder)) if each is held), "[…]")
        elif isinstance(holder, (set, frozenset)):
            text += "{…}"
        elif (attributes := _attributes(holder)) is not None and held is not attributes:
            text += _entry(attributes, held, named=True)
        before = holder
    return text


def _entry(entries: dict[object, object], held: object, *, named: bool) -> str:
    for key, value in list(entries.items()):
        if value is held or key is held:
            return f".{key}" if named else f"[{_short(key)}]"
    return ""


def _short(key: object) -> str:
    plain = isinstance(key, (str, int, bytes, float, type(None)))
    return repr(key)[:60] if plain else f"a {public_name(type(key).__qualname__)}"


def _attributes(thing: object) -> dict[object, object] | None:
    with suppress(Exception):  # a __dict__ of the author's own making
        attributes = object.__getattribute__(thing, "__dict__")
        return attributes if type(attributes) is dict else None
    return None
