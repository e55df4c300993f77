"""Which module's code runs: kept where it outlives the process, so that a start can tell who ended the host before it.

The journal decides; this is only a witness, and is believed only by the run that follows: run and page bear one id, for
in a container every host has pid 1. It is a page of a file, written without a sync: what a killed process has written is
there for the next one. A machine that has lost its power is another matter, and no module's fault: a mark from before a boot
accuses nobody. Nor does one that was copied here with a deployment: the host that wrote it may well live.
"""

from __future__ import annotations

import json
import os
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.runtime.implementation import Implementation

PAGE_BYTES = 4096
_UNNOTED = "_livetag_unnoted"  # of a call that notes its unit: the call that does not
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the last host to run was doing: its pid, and the module whose code it had entered last, if any.

    `ended`: it left by itself (an error that it has told), so nobody killed it. `loaded`: code of some module has run in
    it, so a module may have ended it though none is named. `rebooted`: the machine was started anew since, `copied`: that
    host ran in another directory, of which this one is a copy; neither names a module then. `recorded` is the last record
    of the journal that it had brought to disk.
    """

    pid: int
    module: str | None
    doing: str
    ended: bool
    in_doubt: int | None = None  # the transaction whose COMMITTED it could not write
    loaded: bool = True
    run: str = ""  # of a page of an older livetag
    rebooted: bool = False
    copied: bool = False
    recorded: int = 0


class BlackBox:
    """The page of one deployment; without a path it keeps nothing. No method raises: a witness must not do harm.

    `run` is the id of this run of a host.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.run = uuid.uuid4().hex
        self._path = path
        self._place = os.path.realpath(path) if path is not None else ""
        self._file: int | None = None
        self._running: list[tuple[str, str]] = []
        # Weak: a version that leaves service meanwhile must be gone then.
        self._watched: list[weakref.ref[Implementation]] = []
        self._in_doubt: int | None = None
        self._loaded = False
        self._recorded = 0
        self._boot = _boot_id()

    def last(self) -> Evidence | None:
        """What the host before this one left; None if there is nothing that could be believed."""
        try:
            found = json.loads(self._path.read_bytes()) if self._path is not None else {}
            rebooted = found["boot"] != self._boot
            copied = found.get("place", self._place) != self._place
            module, doing = found["running"][-1] if found["running"] else (None, "")
            if rebooted or copied:
                module, doing = None, ""
            return Evidence(
                int(found["pid"]),
                module,
                str(doing),
                bool(found["ended"]),
                found.get("in_doubt"),
                bool(found.get("loaded", True)),
                str(found.get("run", "")),
                rebooted,
                copied,
                int(found.get("recorded", 0)),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def begin(self) -> None:
        """Forget the host before this one: from here it is about us."""
        if self._path is None:
            return
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # a page that cannot be written must not go on telling of another host
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._write()

    @contextmanager
    def during(self, module: str, doing: str) -> Iterator[None]:
        """Within the block it is this module's code that runs."""
        mark = (module, doing)
        self._loaded = True
        self._running.append(mark)
        self._write()
        try:
            yield
        finally:
            self._running.remove(mark)
            self._write()

    def doubt(self, txn: int) -> None:
        """Note that the COMMITTED of this transaction could not be written; the page is there already, so it has room."""
        self._in_doubt = txn
        self._write()

    def recorded(self, seq: int) -> None:
        """Note that the journal is on disk up to this record: one that ends before it has lost its end."""
        self._recorded = seq
        self._write()

    def watch(self, implementation: Implementation) -> None:
        """Note each unit of work of this version, until `unwatch`. It costs some microseconds a unit."""
        self._watched.append(weakref.ref(implementation))
        for type_, handler in implementation.handlers.items():
            handler.call = self._noted(handler.call, (implementation.name, type_), handler.is_async)

    def unwatch(self) -> None:
        """Leave the units alone from here on; they cost what they cost before."""
        watched, self._watched = self._watched, []
        for implementation in filter(None, (each() for each in watched)):
            for handler in implementation.handlers.values():
                handler.call = getattr(handler.call, _UNNOTED, handler.call)

    def _noted(self, call: Callable[..., Any], unit: tuple[str, str], is_async: bool) -> Callable[..., Any]:
        module, doing = unit[0], f"handling {unit[1]!r}"

        def noted(*arguments: Any) -> Any:
            with self.during(module, doing):
                return call(*arguments)

        async def noted_async(*arguments: Any) -> Any:
            with self.during(module, doing):
                return await call(*arguments)

        made = noted_async if is_async else noted
        setattr(made, _UNNOTED, call)
        return made

    def close(self) -> None:
        """The host leaves by itself, well or with an error that it tells."""
        self.unwatch()
        self._running.clear()
        self._write(ended=True)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, *, ended: bool = False) -> None:
        if self._file is None:
            return
        said = {
            "boot": self._boot,
            "place": self._place,
            "pid": os.getpid(),
            "run": self.run,
            "running": self._running[-20:],
            "ended": ended,
            "in_doubt": self._in_doubt,
            "loaded": self._loaded,
            "recorded": self._recorded,
        }
        page = json.dumps(said).encode()[:PAGE_BYTES].ljust(PAGE_BYTES)
        with suppress(OSError):
            os.pwrite(self._file, page, 0)


def _boot_id() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
