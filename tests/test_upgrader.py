"""The upgrader on a real store and a real journal: what it looks at, what it tries again, and how a stop ends it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runtime.application import Application
from orchestrator.runtime.table_image import records_of
from orchestrator.upgrade import retries
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.checks import Environment
from orchestrator.upgrade.copies import Copies, copied
from orchestrator.upgrade.image import left_image, take_image
from orchestrator.upgrade.journal import Journal, ModuleImage
from orchestrator.upgrade.journal_file import Line, write_lines
from orchestrator.upgrade.noted import IN_PROBATION
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.planner import Planner
from orchestrator.upgrade.records import Breached, Committed, Quarantined
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.service import module_states
from orchestrator.upgrade.states import ModuleState
from orchestrator.upgrade.tidying import loaded_below
from orchestrator.upgrade.trial import describe
from orchestrator.upgrade.upgrader import Upgrader
from repo_store.manifest import TrialSection
from repo_store.release import RefMap
from tests.runtime_kit import state_of, until
from tests.stories.deployment import Deployment

COUNTER = """
    import asyncio
    from pathlib import Path

    from livetag import Module, handles

    class Counter(Module):
        state_version = 2

        def initial_state(self):
            return {"total": 0}

        @handles
        def add(self, n: int) -> int:
            self.state["total"] += n
            return self.state["total"]

        @handles
        async def wait_for(self, file: str) -> None:
            while not Path(file).exists():
                await asyncio.sleep(0.01)
"""
TABLED = """
    from livetag import Module, Table, handles

    class Counter(Module):
        rows: Table[int, int] = Table(version=1)

        def initial_state(self):
            return {}

        @handles
        def fill(self, n: int) -> None:
            for key in range(n):
                self.rows[key] = key
"""
UNFIT = COUNTER.replace(
    "state_version = 2\n",
    "state_version = 2\n\n        async def prepare(self):\n            raise RuntimeError\n",
)


class _SlowDisk:
    """Writes as the journal does, but holds the next COMMITTED until told."""

    def __init__(self) -> None:
        self.holds = False
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def write(self, connection: Any, lines: Sequence[Line], head: tuple[int, bytes]) -> None:
        if self.holds and any(isinstance(line.record.fact, Committed) for line in lines):
            self.reached.set()
            self.go_on.wait(10.0)
        write_lines(connection, lines, head)


class _Scene:
    """An upgrader at work on a deployment's store, without a host around it."""

    def __init__(self, store: Deployment, repository: Repository, journal: Journal) -> None:
        self.store = store
        self.app = Application()
        self.journal = journal
        self.book = Book(journal)
        self.repository = repository
        planner = Planner(self.app, repository, Environment("3.11.0", {}), prereleases=False)
        self.upgrader = Upgrader(self.app, repository, planner, self.book, TrialSection())
        self.running = asyncio.ensure_future(self.upgrader.run())

    def release(
        self, *tags: str, modules: Sequence[str], composed: bool = False, toml: str = "", code: str = COUNTER
    ) -> None:
        """Commit these modules and tag the commit in the store, behind the host's back."""
        if composed:
            self.store.work.write("app.toml", "".join(f"[modules.{name}]\n" for name in modules))
        for name in modules:
            self.store.write(name, {"__init__.py": code, "module.toml": toml})
        self.store.release(*tags)
        for tag in tags:
            self.store.git("fetch", "-q", str(self.store.work.path), f"refs/tags/{tag}:refs/tags/{tag}")

    async def look(self, *, push_over: bool = True) -> None:
        await self.upgrader.passed(self.upgrader.look(push_over=push_over))

    def transactions(self) -> list[dict[str, str]]:
        """What each has brought: module → version."""
        views = self.book.ledger.transactions.values()
        return [{c.name: c.after.version for c in view.changes if c.after is not None} for view in views]

    def after_each_read(self, does: Iterable[Callable[[], object]]) -> list[RefMap]:
        """Have each of the next reads of the refs followed by one of these; gives what the reads gave."""
        read, left = self.repository.refs, iter(does)
        reads: list[RefMap] = []

        async def disturbed() -> RefMap:
            reads.append(await read())
            next(left, lambda: None)()
            return reads[-1]

        self.repository.refs = disturbed  # type: ignore[method-assign]
        return reads


@asynccontextmanager
async def upgrading(store: Deployment) -> AsyncIterator[_Scene]:
    journal = Journal.open(store.place.journal, time.time)
    limits = TrialSection()
    repository = Repository(store.place.store, store.place.stage, lambda p, n, m: describe(p, n, m, limits))
    await repository.open()
    scene = _Scene(store, repository, journal)
    try:
        yield scene
    finally:
        scene.running.cancel()
        await asyncio.wait([scene.running])
        await scene.upgrader.stop()
        for proxy in scene.app.modules.values():
            await proxy.close("the test is over")
        await repository.close()
        await asyncio.to_thread(journal.close)


def test_a_stop_while_the_decision_goes_to_the_disk_keeps_all_state_and_stops_what_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of the module that left and of the one that came would be gone, and the old versions never stopped."""
    disk = _SlowDisk()
    monkeypatch.setattr("orchestrator.upgrade.journal.write_lines", disk.write)
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            app, book = scene.app, scene.book
            scene.release("app/v1.0.0", modules=["stays", "leaves"], composed=True)
            await scene.look()
            await app.ask("leaves", "add", {"n": 5})
            leaver = app.modules["leaves"].implementation

            scene.release("app/v1.1.0", modules=["stays", "comes"], composed=True)
            disk.holds = True
            scene.upgrader.look(push_over=True)
            await until(disk.reached.is_set, 20.0)
            await app.ask("comes", "add", {"n": 3})
            scene.running.cancel()
            await asyncio.sleep(0)
            disk.go_on.set()
            await asyncio.wait([scene.running])
            await scene.upgrader.stop()

            assert set(book.ledger.table) == {"stays", "comes"}
            assert book.ledger.unfinished is None
            assert book.ledger.images == {"leaves"}
            left = scene.journal.load_images()["leaves"]
            assert (left.state_version, left.state) == (2, b"\x81\xa5total\x05")
            assert {image.name for image in take_image(app, book.ledger.table)} >= {"stays", "comes"}
            assert state_of(app, "comes") == {"total": 3}
            assert leaver is not None
            assert leaver.stopped

    try:
        asyncio.run(story())
    finally:
        disk.go_on.set()


def test_a_stop_while_what_a_module_leaves_is_saved_loses_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            app = scene.app

            async def stopped(participant: Participant) -> ModuleImage | None:
                asyncio.get_running_loop().call_soon(scene.running.cancel)
                return await left_image(participant)

            scene.release("app/v1.0.0", modules=["stays", "leaves"], composed=True, code=TABLED)
            await scene.look()
            await app.ask("leaves", "fill", {"n": 2_000})
            leaver = app.modules["leaves"].implementation
            scene.release("app/v1.1.0", modules=["stays"], composed=True, code=TABLED)
            monkeypatch.setattr("orchestrator.upgrade.leavers.left_image", stopped)
            scene.upgrader.look(push_over=True)
            await asyncio.wait([scene.running])
            await scene.upgrader.stop()

            assert set(scene.book.ledger.table) == {"stays"}
            assert scene.book.ledger.images == {"leaves"}
            (rows,) = scene.journal.load_images()["leaves"].tables
            assert len(list(records_of(rows))) == 2_000
            assert leaver is not None
            assert leaver.stopped

    asyncio.run(story())


def test_a_failure_of_the_moment_is_tried_again_and_quarantines_nothing(tmp_path: Path) -> None:
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            await scene.look()
            await scene.app.send("a", "wait_for", {"file": str(tmp_path / "end")})
            scene.release("a/v1.1.0", modules=["a"], toml="[limits]\ndrain_s = 0.05\n")
            await scene.look()
            assert "no boundary between two units" in scene.book.ledger.transactions[2].reason
            assert not scene.book.ledger.quarantine
            (tmp_path / "end").touch()
            await asyncio.wait_for(scene.upgrader.next_pass(), 10.0)
            assert scene.book.ledger.table["a"].version == "1.1.0"

    asyncio.run(story())


def test_a_history_that_git_did_not_take_is_tried_again_though_nobody_asks_for_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.upgrade.lookout.AGAIN_S", 0.05)

    async def life() -> None:
        store = Deployment(tmp_path)
        async with upgrading(store) as scene:
            lock = store.place.store / "refs" / "heads" / "deployments.lock"
            lock.write_text("")
            scene.release("counter/v1.0.0", modules=["counter"])
            await scene.look()
            assert scene.transactions() == [{"counter": "1.0.0"}], "it goes live all the same"
            assert "behind the journal" in scene.upgrader.chronicle.behind
            lock.unlink()
            await until(lambda: not scene.upgrader.chronicle.behind)
            assert len(store.deployments()) == 1

    asyncio.run(life())


def test_a_failure_of_the_moment_that_stays_is_quarantined_after_its_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DELAYS_S", (0.0, 0.01, 0.02))
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            await scene.look()
            await scene.app.send("a", "wait_for", {"file": str(tmp_path / "end")})
            scene.release("a/v1.1.0", modules=["a"], toml="[limits]\ndrain_s = 0.01\n")
            await scene.look()
            await until(lambda: scene.book.ledger.quarantine, 20.0)
            tries = list(scene.book.ledger.transactions.values())[1:]
            assert [view.outcome for view in tries] == ["rolled_back"] * 4
            [held] = scene.book.ledger.quarantine.values()
            assert held.tag == "a/v1.1.0"
            assert "no boundary between two units" in held.reason
            (tmp_path / "end").touch()  # it would go now
            await scene.look()
            assert len(scene.transactions()) == 5
            assert scene.book.ledger.table["a"].version == "1.0.0"

    asyncio.run(story())


@pytest.mark.parametrize("fails", ["in its trial", "in the plan"])
def test_after_a_bad_release_the_next_lower_one_goes_live_in_the_same_look(
    tmp_path: Path, fails: str
) -> None:
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            await scene.look()
            scene.release("a/v1.1.0", modules=["a"], toml='description = "another"\n')
            toml, code = ("", UNFIT) if fails == "in its trial" else ('[requires]\npython = ">=4"\n', COUNTER)
            scene.release("a/v1.2.0", modules=["a"], toml=toml, code=code)
            await scene.look()
            assert {q.tag for q in scene.book.ledger.quarantine.values()} == {"a/v1.2.0"}
            assert scene.book.ledger.table["a"].version == "1.1.0"

    asyncio.run(story())


def test_refs_count_only_if_nobody_touched_them_while_they_were_read(tmp_path: Path) -> None:
    """Two tags of one commit, seen while the push has written only the first, are one transaction all the same."""
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a", "b"])

            def the_rest_of_the_push() -> None:
                store.git("tag", "b/v1.0.0", "a/v1.0.0")

            reads = scene.after_each_read([the_rest_of_the_push])
            await scene.look(push_over=False)
            assert len(reads) == 2
            assert scene.transactions() == [{"a": "1.0.0", "b": "1.0.0"}]

    asyncio.run(story())


def test_tags_that_go_back_and_forth_do_not_rest_though_each_read_gives_the_same(tmp_path: Path) -> None:
    """A thousand moves between two commits, seen at the same one twice, made a transaction in mid-storm."""
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            here = store.git("rev-parse", "a/v1.0.0")
            there = store.git("hash-object", "-t", "blob", "-w", "/dev/null")

            def there_and_back() -> None:
                store.git("update-ref", "refs/tags/a/v1.0.0", there)
                store.git("update-ref", "refs/tags/a/v1.0.0", here)

            reads = scene.after_each_read([there_and_back] * 3)
            await scene.look(push_over=False)
            assert len(reads) == 4
            assert scene.transactions() == [{"a": "1.0.0"}]

    asyncio.run(story())


def test_what_moved_during_a_transaction_counts_only_once_it_rests(tmp_path: Path) -> None:
    """A storm that began meanwhile was deployed in its middle, and once more at its end."""
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            for version in ("1.1.0", "1.2.0"):
                store.write("a", f"{COUNTER}\n        # {version}\n")
                store.release()
                store.git("fetch", "-q", str(store.work.path), f"main:refs/heads/{version}")
            keep = scene.repository.keep

            def move(to: str) -> None:
                store.git("update-ref", "refs/tags/a/v1.3.0", f"refs/heads/{to}")

            async def keep_while_a_storm_begins(commit_ids: Collection[str]) -> None:
                await keep(commit_ids)
                scene.repository.keep = keep  # type: ignore[method-assign]
                move("1.1.0")
                scene.after_each_read([lambda: move("1.2.0")])

            scene.repository.keep = keep_while_a_storm_begins  # type: ignore[method-assign]
            await scene.look()
            assert scene.book.ledger.table["a"].commit_id == store.git("rev-parse", "1.2.0")
            assert scene.transactions() == [{"a": "1.0.0"}, {"a": "1.3.0"}]

    asyncio.run(story())


def test_a_host_that_runs_for_long_keeps_staged_only_what_served_last_and_what_may_still_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that was refused would stay on the disk until the host is restarted, and every old one, too."""
    for place in ("needed", "tidying"):
        monkeypatch.setattr(f"orchestrator.upgrade.{place}.SERVED_KEPT", 3)
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            served = []
            for minor in range(4):
                refused = "async def prepare(self): raise ValueError" if minor == 1 else ""
                store.write("a", f"{COUNTER}\n        {refused}\n    # {minor}\n")
                store.release(f"a/v1.{minor}.0")
                store.git(
                    "fetch", "-q", str(store.work.path), f"refs/tags/a/v1.{minor}.0:refs/tags/a/v1.{minor}.0"
                )
                await scene.look()
                served.append(scene.book.ledger.table["a"].tree_id)
            assert served[1] == served[0], "the second was refused"
            staged = {path.name for path in store.place.stage.iterdir()}
            assert staged == {served[0], served[2], served[3]}, "as the last three that served need it"
            assert served[3] in {path.name for path in loaded_below(store.place.stage)}
            store.git("tag", "a/v1.4.0", "a/v1.0.0")
            await scene.look()
            assert scene.book.ledger.table["a"].tree_id == served[0]

    asyncio.run(story())


@pytest.mark.parametrize("a_push_is_over", [True, False])
def test_tags_that_never_rest_keep_nothing_from_going_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, a_push_is_over: bool
) -> None:
    """A script that moves its tag for ever would keep every push waiting."""
    monkeypatch.setattr("orchestrator.upgrade.agreement.AGREE_MAX_S", 600.0 if a_push_is_over else 0.2)
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])

            def move() -> None:
                (tmp_path / "blob").write_text(f"{len(reads)}")
                blob = store.git("hash-object", "-w", str(tmp_path / "blob"))
                store.git("update-ref", "refs/tags/z/v1.0.0", blob)

            reads = scene.after_each_read(itertools.repeat(move))
            number = scene.upgrader.look()
            await until(lambda: len(reads) > 2)
            if a_push_is_over:
                number = scene.upgrader.look(push_over=True)
            await asyncio.wait_for(scene.upgrader.passed(number), 60)
            assert "a" in scene.app.modules

    asyncio.run(story())


def test_between_the_switch_and_the_disk_a_module_is_said_to_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _SlowDisk()
    monkeypatch.setattr("orchestrator.upgrade.journal.write_lines", disk.write)
    store, state_copied = Deployment(tmp_path), threading.Event()

    async def watched(*arguments: Any) -> Copies:
        found = await copied(*arguments)
        state_copied.set()
        return found

    monkeypatch.setattr("orchestrator.upgrade.rehearsal.copied", watched)

    async def story() -> None:
        async with upgrading(store) as scene:
            upgrader = scene.upgrader

            def states() -> dict[str, ModuleState]:
                kept, switching = upgrader.kept.keys(), upgrader.switching
                return dict(module_states(scene.app, scene.book.ledger, kept, switching=switching))

            scene.release("a/v1.0.0", modules=["a"])
            await scene.look()
            scene.release("a/v1.1.0", "b/v1.0.0", modules=["a", "b"], toml="[limits]\ndrain_s = 9.0\n")
            disk.holds = True
            state_copied.clear()
            upgrader.look(push_over=True)
            await until(state_copied.is_set, 20.0)
            await scene.app.send("a", "wait_for", {"file": str(tmp_path / "end")})
            await until(lambda: states() == {"a": ModuleState.IN_SERVICE, "b": ModuleState.LOADED}, 20.0)
            (tmp_path / "end").touch()
            await until(disk.reached.is_set, 20.0)
            assert states() == {"a": ModuleState.SWITCHING, "b": ModuleState.SWITCHING}
            disk.holds = False
            disk.go_on.set()
            await upgrader.next_pass()
            assert states() == {"a": ModuleState.IN_SERVICE, "b": ModuleState.IN_SERVICE}

    try:
        asyncio.run(story())
    finally:
        disk.go_on.set()


@pytest.mark.parametrize(
    "how", ["is on disk", "is on its way to the disk", "is said as the transaction begins"]
)
def test_what_is_quarantined_while_the_plan_is_made_does_not_go_live(tmp_path: Path, how: str) -> None:
    """A rollback that came in the middle of a look had its release brought into service again by that look."""
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            await scene.look()
            keep = scene.repository.keep

            async def keep_while_a_person_quarantines(commit_ids: Collection[str]) -> None:
                await keep(commit_ids)
                commit_id = (await scene.repository.refs())["a/v1.1.0"].commit_id or ""
                fact = Quarantined("a", commit_id, "a/v1.1.0", "rolled back by hand")
                if how == "is on disk":
                    await scene.book.write(fact)
                elif how == "is on its way to the disk":
                    scene.book.append(fact)
                else:
                    asyncio.get_running_loop().call_soon(scene.book.append, fact)

            scene.repository.keep = keep_while_a_person_quarantines  # type: ignore[method-assign]
            scene.release("a/v1.1.0", modules=["a"], toml='description = "another"\n')
            await scene.look()
            assert scene.book.ledger.table["a"].version == "1.0.0"
            assert list(scene.book.ledger.transactions) == [1]

    asyncio.run(story())


@pytest.mark.parametrize("staged", [True, False])
def test_no_code_serves_as_another_release_whatever_the_plan_says(tmp_path: Path, staged: bool) -> None:
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            await scene.look()
            keep, before = scene.repository.keep, scene.upgrader.outlook.candidates["a"]

            async def keep_while_the_plan_goes_wrong(commit_ids: Collection[str]) -> None:
                await keep(commit_ids)
                candidates = scene.upgrader.outlook.candidates
                assert isinstance(candidates, dict)
                wish = replace(candidates["a"].wish, ref=before.wish.ref)
                candidates["a"] = replace(candidates["a"], wish=wish) if staged else before

            scene.repository.keep = keep_while_the_plan_goes_wrong  # type: ignore[method-assign]
            scene.release("a/v1.1.0", modules=["a"], toml='description = "another"\n')
            await scene.look()
            assert scene.book.ledger.table["a"].version == "1.0.0"
            assert scene.book.ledger.transactions[2].reason == "a: a/v1.1.0 is not what is staged for it"

    asyncio.run(story())


@pytest.mark.parametrize("how", ["is on disk", "is found as the transaction begins"])
def test_a_breach_that_is_found_while_the_plan_is_made_goes_back_first(tmp_path: Path, how: str) -> None:
    """Of a release that a person had quarantined already: the next one took its probation over, and the breach was nothing."""
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            await scene.look()
            scene.release("a/v1.1.0", modules=["a"], toml="[probation]\nseconds = 600.0\n")
            await scene.look()
            assert [view.id for view in scene.book.ledger.in_probation] == [2]
            sour = scene.book.ledger.table["a"]
            keep = scene.repository.keep

            async def keep_while_it_is_found_to_be_sour(commit_ids: Collection[str]) -> None:
                await keep(commit_ids)
                scene.repository.keep = keep  # type: ignore[method-assign]
                if how == "is on disk":
                    await scene.book.write(Breached(2, "it has gone sour"))
                else:
                    asyncio.get_running_loop().call_soon(scene.book.append, Breached(2, "it has gone sour"))

            scene.repository.keep = keep_while_it_is_found_to_be_sour  # type: ignore[method-assign]
            await scene.book.write(Quarantined("a", sour.commit_id, sour.tag, "rolled back by hand"))
            scene.release("a/v1.2.0", modules=["a"], toml='description = "another"\n')
            await scene.look()
            views = scene.book.ledger.transactions.values()
            assert [view.who for view in views] == ["refs", "refs", IN_PROBATION, "refs"]
            assert scene.transactions() == [{"a": v} for v in ("1.0.0", "1.1.0", "1.0.0", "1.2.0")]

    asyncio.run(story())


def test_a_tag_waits_for_the_way_back_of_a_breach_over_more_than_one_try(tmp_path: Path) -> None:
    """It took over what had gone sour, which then never went back."""
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            await scene.look()
            scene.release("a/v1.1.0", modules=["a"], toml="[probation]\nseconds = 600.0\n")
            await scene.look()
            await scene.book.write(Breached(2, "it has gone sour"))
            (sour,) = scene.book.ledger.going_back
            await scene.upgrader.probations.failed(sour, "no boundary in 5 s", "moment")
            scene.release("a/v1.2.0", modules=["a"], toml='description = "another"\n')
            await scene.look()
            assert len(scene.transactions()) == 2, "a/v1.2.0 comes between a breach and its way back"
            await until(lambda: len(scene.transactions()) == 4, 10.0)
            views = scene.book.ledger.transactions.values()
            assert [view.who for view in views] == ["refs", "refs", IN_PROBATION, "refs"]
            assert scene.transactions() == [{"a": v} for v in ("1.0.0", "1.1.0", "1.0.0", "1.2.0")]

    asyncio.run(story())


def test_what_a_rollback_says_after_the_tags_were_read_is_not_taken_without_its_tags(tmp_path: Path) -> None:
    """The release before came back under its old tag, and the tag of the rollback was then "the same code, not swapped"."""
    store = Deployment(tmp_path)

    async def story() -> None:
        async with upgrading(store) as scene:
            scene.release("a/v1.0.0", modules=["a"])
            await scene.look()
            scene.release("a/v1.1.0", modules=["a"], toml='description = "another"\n')
            await scene.look()
            bad = scene.book.ledger.table["a"].commit_id

            def roll_back() -> None:
                scene.store.git("tag", "a/v1.1.1", "a/v1.0.0")
                scene.book.append(Quarantined("a", bad, "a/v1.1.0", "rolled back by hand"))

            scene.after_each_read([roll_back])
            await scene.look()
            assert scene.book.ledger.table["a"].tag == "a/v1.1.1"
            assert [view.outcome for view in scene.book.ledger.transactions.values()] == ["committed"] * 3

    asyncio.run(story())
