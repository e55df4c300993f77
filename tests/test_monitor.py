from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger
from typing_extensions import Self

from repo_store.errors import StoreError
from repo_store.monitor import TagMonitor
from repo_store.refs import RefChange
from repo_store.release import RefMap
from repo_store.store import RepoStore
from tests.git_fixtures import GitRepo, bare_store

DEADLINE_S = 10.0


class Watch:
    """Runs a monitor and keeps what it told, as short name → commit id."""

    def __init__(self, path: Path, debounce_s: float = 0.03, reconcile_s: float = 60.0) -> None:
        self.told: list[tuple[dict[str, str | None], dict[str, str | None]]] = []
        self.threads: set[str] = set()
        self.fail = 0
        self.news = threading.Condition()
        self.monitor = TagMonitor(path, self._take, debounce_s, reconcile_s)

    def _take(self, before: RefMap, after: RefMap) -> None:
        with self.news:
            if self.fail:
                self.fail -= 1
                raise RuntimeError("the listener failed")
            self.threads.add(threading.current_thread().name)
            self.told.append((commits(before), commits(after)))
            self.news.notify_all()

    def now(self) -> dict[str, str | None] | None:
        return self.told[-1][1] if self.told else None

    def until(self, wanted: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(wanted, DEADLINE_S), self.told

    def sees(self, names: set[str]) -> None:
        self.until(lambda: set(self.now() or {}) == names and self.now() is not None)

    def __enter__(self) -> Self:
        self.monitor.start()
        self.until(lambda: bool(self.told))
        return self

    def __exit__(self, *_: object) -> None:
        self.monitor.stop()
        for thread in threading.enumerate():
            assert thread.name != "tag-monitor"


def poll(wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def commits(refs: RefMap) -> dict[str, str | None]:
    return {name: ref.commit_id for name, ref in refs.items()}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RepoStore]:
    with bare_store(tmp_path / "store.git") as store:
        yield store


@pytest.fixture
def work(tmp_path: Path, store: RepoStore) -> GitRepo:
    return GitRepo(tmp_path / "work", remote=store.path)


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)


def test_the_first_call_tells_what_is_there_even_if_that_is_nothing(store: RepoStore, work: GitRepo) -> None:
    with Watch(store.path) as watch:
        assert watch.told == [({}, {})]
        assert watch.threads == {"tag-monitor"}
    commit_id = work.release("counter/v1.0.0")
    with Watch(store.path) as watch:
        assert watch.told == [({}, {"counter/v1.0.0": commit_id})]


def test_a_pushed_tag_is_told_soon_with_before_and_after(store: RepoStore, work: GitRepo) -> None:
    first = work.release("counter/v1.0.0")
    with Watch(store.path) as watch:
        for minor in range(1, 6):
            started = time.monotonic()
            second = work.release(f"counter/v1.{minor}.0")
            watch.until(lambda tag=f"counter/v1.{minor}.0": tag in (watch.now() or {}))  # type: ignore[misc]
            assert time.monotonic() - started < 2.0, "an event, not the reconcile, brought it"
            assert watch.now() is not None
            assert (watch.now() or {})[f"counter/v1.{minor}.0"] == second
        assert watch.told[1][0] == {"counter/v1.0.0": first}


def test_a_tag_made_by_a_local_git_tag_or_by_a_fetch_is_told(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    commit_id = work.release("counter/v1.0.0")
    with Watch(store.path) as watch:
        bare = ["--git-dir", str(store.path)]
        work.git(*bare, "tag", "counter/v1.1.0", commit_id)
        watch.sees({"counter/v1.0.0", "counter/v1.1.0"})
        work.tag("clock/v0.1.0", annotate="elsewhere")
        work.git(*bare, "fetch", "-q", str(work.path), "refs/tags/clock/v0.1.0:refs/tags/clock/v0.1.0")
        watch.sees({"counter/v1.0.0", "counter/v1.1.0", "clock/v0.1.0"})


def test_a_moved_and_a_deleted_tag_are_told(store: RepoStore, work: GitRepo) -> None:
    first = work.release("counter/v1.0.0")
    with Watch(store.path) as watch:
        second = work.commit("moved")
        work.tag("counter/v1.0.0", force=True)
        work.push("refs/tags/counter/v1.0.0", force=True)
        watch.until(lambda: watch.now() == {"counter/v1.0.0": second})
        assert watch.told[-1][0] == {"counter/v1.0.0": first}
        work.push(":refs/tags/counter/v1.0.0")
        watch.until(lambda: watch.now() == {})


def test_packing_and_gc_change_nothing_and_tags_after_them_are_told(store: RepoStore, work: GitRepo) -> None:
    for minor in range(5):
        work.release(f"counter/v1.{minor}.0")
    with Watch(store.path) as watch:
        for _ in range(3):
            store.door.run("pack-refs", "--all")
            store.door.run("gc", "--quiet", "--prune=now")
        moved = work.release("counter/v2.0.0")
        watch.until(lambda: "counter/v2.0.0" in (watch.now() or {}))
        assert len(watch.told) == 2, "the deleted events of packing told nothing"
        store.door.run("pack-refs", "--all")
        work.push(":refs/tags/counter/v1.0.0")
        watch.until(lambda: "counter/v1.0.0" not in (watch.now() or {}))
        assert (watch.now() or {})["counter/v2.0.0"] == moved
        assert len(watch.now() or {}) == 5


def test_a_tag_that_arrives_packed_is_told(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    with Watch(store.path) as watch:
        lock = store.path / "packed-refs.lock"
        lock.write_text(
            f"# pack-refs with: peeled fully-peeled sorted \n{commit_id} refs/tags/counter/v1.1.0\n"
        )
        lock.rename(store.path / "packed-refs")
        watch.sees({"counter/v1.0.0", "counter/v1.1.0"})


def test_a_thousand_moves_are_told_as_few_changes(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v0.0.1")
    with Watch(store.path) as watch:
        changes = [RefChange(f"refs/tags/counter/v1.0.{n}", commit_id, None) for n in range(1000)]
        for first in range(0, 1000, 50):
            store.update_refs(changes[first : first + 50])
        watch.until(lambda: len(watch.now() or {}) == 1001)
        assert len(watch.told) < 40


def test_a_push_seen_half_done_is_not_told_until_it_rests(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v0.0.1")
    with Watch(store.path, debounce_s=0.5) as watch:
        for n in range(30):
            store.update_refs([RefChange(f"refs/tags/counter/v1.0.{n}", commit_id, None)])
        watch.until(lambda: len(watch.now() or {}) == 31)
        assert len(watch.told) == 2


def test_wake_looks_at_once_and_trusts_one_read(
    store: RepoStore, work: GitRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TagMonitor, "_look_again", lambda _: None)
    with Watch(store.path, debounce_s=2.0) as watch:
        started = time.monotonic()
        work.release("counter/v1.0.0")
        watch.monitor.wake()
        watch.sees({"counter/v1.0.0"})
        assert time.monotonic() - started < 1.5


def test_what_no_event_told_is_found_by_the_reconcile(
    store: RepoStore, work: GitRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TagMonitor, "_look_again", lambda _: None)
    with Watch(store.path, reconcile_s=0.2) as watch:
        work.release("counter/v1.0.0")
        watch.sees({"counter/v1.0.0"})


def test_an_idle_repository_is_not_read_again_and_again_but_still_now_and_then(
    store: RepoStore, work: GitRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.release("counter/v1.0.0")
    store.door.run("pack-refs", "--all")
    reads: list[float] = []
    read = RepoStore.refs

    def counted(self: RepoStore) -> RefMap:
        reads.append(time.monotonic())
        return read(self)

    monkeypatch.setattr(RepoStore, "refs", counted)
    for path in (store.path / "packed-refs", store.path / "refs/tags", *(store.path / "refs/tags").iterdir()):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    with Watch(store.path, reconcile_s=0.01) as watch:
        poll(lambda: watch.monitor._stamp is not None)
        first, rounds = len(reads), watch.monitor._reconciles
        poll(lambda: watch.monitor._reconciles >= rounds + 100)
        assert 4 <= len(reads) - first <= 7, "one in twenty"
        work.release("counter/v1.1.0")
        watch.sees({"counter/v1.0.0", "counter/v1.1.0"})


def test_a_watch_that_died_is_set_up_again(store: RepoStore, work: GitRepo) -> None:
    with Watch(store.path, reconcile_s=0.1) as watch:
        dead = watch.monitor._observer
        assert dead is not None
        dead.stop()
        dead.join(DEADLINE_S)
        poll(lambda: watch.monitor._observer not in {None, dead})
        work.release("counter/v1.0.0")
        watch.sees({"counter/v1.0.0"})


def test_a_listener_that_fails_is_told_again(store: RepoStore, work: GitRepo, log: list[str]) -> None:
    with Watch(store.path, reconcile_s=0.1) as watch:
        watch.fail = 2
        commit_id = work.release("counter/v1.0.0")
        watch.sees({"counter/v1.0.0"})
        assert watch.told[-1] == ({}, {"counter/v1.0.0": commit_id})
    assert "was not taken" in "".join(log)


def test_a_repository_that_cannot_be_read_for_a_while_is_waited_for(
    store: RepoStore, work: GitRepo, log: list[str]
) -> None:
    work.release("counter/v1.0.0")
    with Watch(store.path, reconcile_s=0.1) as watch:
        head = store.path / "HEAD"
        head.rename(store.path / "HEAD.away")
        poll(lambda: "could not be read" in "".join(log))
        (store.path / "HEAD.away").rename(head)
        work.release("counter/v1.1.0")
        watch.sees({"counter/v1.0.0", "counter/v1.1.0"})
        assert len(watch.told) == 2, "an unreadable repository is not an empty one"


def test_start_without_a_repository_raises_and_stop_is_always_safe(tmp_path: Path) -> None:
    monitor = TagMonitor(tmp_path, lambda _before, _after: None)
    with pytest.raises(StoreError):
        monitor.start()
    monitor.stop()
    monitor.stop()


def test_a_stopped_monitor_leaves_no_thread_no_process_and_no_descriptor(
    store: RepoStore, work: GitRepo
) -> None:
    def held() -> tuple[set[str], set[str]]:
        descriptors = {path.name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
        return descriptors, {thread.name for thread in threading.enumerate()}

    work.release("counter/v1.0.0")
    with Watch(store.path):
        pass
    before = held()
    for _ in range(5):
        with Watch(store.path) as watch:
            watch.sees({"counter/v1.0.0"})
    assert held() == before


def test_a_tag_that_moved_away_and_back_is_no_change_but_a_reason_to_look(
    store: RepoStore, work: GitRepo
) -> None:
    first = work.release("counter/v1.0.0")
    work.push()
    second = work.commit()
    work.push("main")
    looks: list[int] = []
    watch = Watch(store.path)
    watch.monitor = TagMonitor(
        store.path, watch._take, 0.2, 60.0, on_look=lambda: looks.append(len(watch.told))
    )
    with watch:
        poll(lambda: len(looks) == 1)
        ref = "refs/tags/counter/v1.0.0"
        store.update_refs([RefChange(ref, second, first)])
        store.update_refs([RefChange(ref, first, second)])  # well within the debounce
        poll(lambda: len(looks) >= 2)
        assert watch.now() == {"counter/v1.0.0": first}
