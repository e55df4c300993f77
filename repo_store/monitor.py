"""Watches the tags of a bare repository and tells, on its own thread, from which map to which they changed.

A watchdog event only means "look again" (DESIGN §8): packing deletes files of tags that live on, a late move
comes after half a second, an overflow is silent. So the truth is always a read of the refs; events only say
when, and a periodic read finds what no event told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from loguru import logger
from watchdog.events import (
    DirCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from repo_store.errors import StoreError
from repo_store.release import RefMap
from repo_store.stamp import Stamp, is_unmoved, refs_stamp
from repo_store.store import RepoStore

# Git renames a lock file over a ref, so a move is a change, and a delete may be one. A new package's folder
# may hold its first tag before it is watched. Opens and closes are not asked for: they come six to a tag.
EVENTS: list[type[FileSystemEvent]] = [FileMovedEvent, FileDeletedEvent, DirCreatedEvent]
SETTLE_MAX_S = 5.0
STOP_TIMEOUT_S = 10.0
# Someone may write a ref file in place, which leaves its folder as it was: read anyway, each so many reconciles.
FULL_READ_EVERY = 20
# A stamp that is kept from one reconcile to the next is of tags that rested for longer than any file system's tick.
RESTED_S = 1.0

OnChange = Callable[[RefMap, RefMap], None]


class TagMonitor:
    """Calls `on_change(before, after)` whenever the tags inside the grammar differ from what it last told.

    The first call comes soon after `start`, with an empty `before`, even if there are no tags. A map counts
    if nobody has touched the tags for `debounce_s` before it was read, or `wake` said that the push is over. Every `reconcile_s`
    seconds it reads without being asked. If `on_change` raises, the change is told again at the next
    reconcile.

    `on_look()` is called after each look, whether or not it found anything to tell. It is for a listener that
    reads the tags by itself, later: a tag that moved away and back between two looks of the monitor is no
    change to the monitor, while that listener may have acted on what was there in between.
    """

    def __init__(
        self,
        path: Path,
        on_change: OnChange,
        debounce_s: float = 0.03,
        reconcile_s: float = 3.0,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = Path(path).absolute()
        self._on_change = on_change
        self._on_look = on_look
        self._debounce_s = debounce_s
        self._reconcile_s = reconcile_s
        self._condition = threading.Condition()
        self._dirty = False
        self._over = False
        self._stopping = False
        self._told: RefMap | None = None
        self._stamp: Stamp | None = None
        self._reconciles = 0
        self._observer: BaseObserver | None = None
        self._thread = threading.Thread(target=self._run, name="tag-monitor", daemon=True)

    def start(self) -> None:
        """Begin to watch; raises StoreError if there is no repository."""
        RepoStore.open(self._path).close()
        self._thread.start()

    def stop(self) -> None:
        """End the watch and its threads. Safe to call twice, and on a monitor that was never started."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(STOP_TIMEOUT_S)

    def wake(self) -> None:
        """Say that a push is over: look at once, and trust one read. May be called from any thread."""
        with self._condition:
            self._dirty = self._over = True
            self._condition.notify_all()

    def _look_again(self) -> None:
        with self._condition:
            self._dirty = True
            self._condition.notify_all()

    def _run(self) -> None:
        with RepoStore.open(self._path) as store:
            # Watch before the first read: a tag that comes between the two is then told by its event.
            self._watch()
            try:
                self._look(store)
                while not self._stopping:
                    with self._condition:
                        rung = self._condition.wait_for(
                            lambda: self._dirty or self._stopping, self._reconcile_s
                        )
                    self._watch()
                    if rung or self._may_differ():
                        self._look(store)
            finally:
                self._unwatch()

    def _may_differ(self) -> bool:
        self._reconciles += 1
        if self._stamp is None or self._reconciles % FULL_READ_EVERY == 0:
            return True
        return not is_unmoved(self._stamp)

    def _look(self, store: RepoStore) -> None:
        # Taken before the reads: a change between the two then costs one more read, and is never missed.
        stamp, self._stamp = refs_stamp(self._path), None
        try:
            now = self._settled(store)
            if now is not None and now != self._told:
                self._on_change(self._told or {}, now)
                self._told = now
            if not self._stopping:
                self._on_look()
        except StoreError as error:
            logger.debug("the tags of {} could not be read: {}; looking again soon", self._path, error)
            self._on_look()  # who reads them by itself finds out, and says so
        except Exception:  # noqa: BLE001  # whatever the listener does, the tags are watched on
            logger.exception("a change of tags was not taken; it is told again in {:g} s", self._reconcile_s)
        else:
            self._stamp = stamp if stamp.rested(RESTED_S) else None

    def _settled(self, store: RepoStore) -> RefMap | None:
        """Read once nobody touches the tags any more; None if the monitor is stopping."""
        # A push that never ends must not hide for ever what has arrived: after a while any read counts.
        deadline = time.monotonic() + SETTLE_MAX_S
        while not self._stopping:
            stamp = refs_stamp(self._path)
            with self._condition:
                self._dirty = False
                self._condition.wait_for(lambda: self._over or self._stopping, self._debounce_s)
                over, self._over = self._over, False
            now = store.refs()
            if over or time.monotonic() > deadline or (is_unmoved(stamp) and not self._dirty_since()):
                return now
        return None

    def _dirty_since(self) -> bool:
        with self._condition:
            return self._dirty

    def _watch(self) -> None:
        observer = self._observer
        if (
            observer is not None
            and observer.is_alive()
            and all(each.is_alive() for each in observer.emitters)
        ):
            return
        self._unwatch()
        observer = Observer()
        handler = _Bell(self._look_again)
        try:
            observer.schedule(handler, str(self._path / "refs" / "tags"), recursive=True, event_filter=EVENTS)
            observer.schedule(handler, str(self._path), recursive=False, event_filter=EVENTS)
            observer.start()
        except OSError as error:
            # No inotify watch is left, or refs/tags is gone: reading every reconcile_s still finds each
            # change.
            every = f"{self._reconcile_s:g} s"
            logger.warning("{} cannot be watched ({}); its tags are read every {}", self._path, error, every)
            self._end(observer)
        else:
            self._observer = observer

    def _unwatch(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            self._end(observer)

    @staticmethod
    def _end(observer: BaseObserver) -> None:
        observer.stop()
        if observer.is_alive():
            observer.join(STOP_TIMEOUT_S)


class _Bell(FileSystemEventHandler):
    """Rings for every event, whatever it says."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring

    def on_any_event(self, event: FileSystemEvent) -> None:
        del event
        self._ring()
