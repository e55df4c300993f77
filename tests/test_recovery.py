"""The start of a host from its journal, cut anywhere, and what a stop of it leaves (DESIGN §7, recovery)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from orchestrator.runtime.application import Application
from orchestrator.runtime.message import Message, encode_message
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.image import kept_state, newest_id, take_image
from orchestrator.upgrade.journal import Journal, ModuleImage
from orchestrator.upgrade.ledger import fold
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Confirmed,
    Entry,
    Fact,
    HostStarted,
    HostStopped,
    ImageSaved,
    Planned,
    Prepared,
    Quarantined,
    RolledBack,
)
from orchestrator.upgrade.recovery import Recovered, bring_back, close_the_past
from orchestrator.upgrade.repository import Repository
from repo_store.manifest import ModuleManifest, Probation, TrialSection
from tests.runtime_kit import idle, state_of

COUNTER = """
from typing import Any

from livetag import Module, handles


class Counter(Module[dict[str, Any]]):
    def initial_state(self):
        return {"total": 0}

    @handles
    def add(self, n: int) -> int:
        self.state["total"] += n
        return self.state["total"]
"""
LEAVES = (
    COUNTER
    + """
    def take_over(self, resources):
        raise SystemExit(3)

    async def stop(self):
        with open(self.config["diary"], "a") as diary:
            diary.write("stopped")
"""
)


class _Folder(Repository):
    """A repository whose releases are staged already: one folder for each tree id."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder, lambda *_: b"")
        self._folder = folder

    async def staged(self, entry: Entry) -> tuple[Path, ModuleManifest]:
        return self._folder / entry.tree_id, ModuleManifest(probation=Probation(seconds=0))

    def stage(self, tree_id: str, code: str) -> None:
        package = self._folder / tree_id / "counter"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code)


def entry(name: str, version: str, tree_id: str = "tree", **config: str) -> Entry:
    return Entry(
        name,
        "counter",
        version,
        f"counter/v{version}",
        f"commit {version}",
        tree_id,
        "o",
        config=dict(config),
    )


def image(name: str, total: int, *bodies: int) -> ModuleImage:
    mailbox = tuple(encode_message(Message("add", {"n": n}, "", 40 + n)) for n in bodies)
    return ModuleImage(name, "counter", 1, msgspec.msgpack.encode({"total": total}), mailbox)


class _Host(NamedTuple):
    app: Application
    book: Book
    recovered: Recovered


@asynccontextmanager
async def host(folder: Path, journal_at: Path) -> AsyncIterator[_Host]:
    """What a start of the host makes of this journal; killed at the end: nothing more is recorded."""
    journal = Journal.open(journal_at, lambda: 1.0)
    app = Application()
    try:
        book = Book(journal)
        close_the_past(book, "0")
        recovered = await bring_back(app, book, _Folder(folder), journal.load_images(), TrialSection())
        yield _Host(app, book, recovered)
    finally:
        for proxy in app.modules.values():
            await proxy.close("the test is over")
            if proxy.implementation is not None and proxy.implementation.loaded is not None:
                proxy.implementation.loaded.unload()
        await asyncio.to_thread(journal.close)


def record(path: Path, facts: Sequence[tuple[Fact, Sequence[ModuleImage]]]) -> None:
    journal = Journal.open(path, lambda: 1.0)
    tickets = [journal.append(fact, images) for fact, images in facts]
    tickets[-1].wait_blocking(5.0)
    journal.close()


A_LIFE: list[tuple[Fact, Sequence[ModuleImage]]] = [
    (HostStarted(1, "0"), ()),
    (Planned(1, (Change("a", None, entry("a", "1.0.0")), Change("b", None, entry("b", "1.0.0"))), "t", "w"), ()),
    (Prepared(1), ()),
    (Committed(1, 1.0, 0), ()),
    (Confirmed(1, ""), ()),
    (Planned(2, (Change("a", entry("a", "1.0.0"), entry("a", "2.0.0")), Change("c", None, entry("c", "2.0.0"))), "t", "w"), ()),
    (Prepared(2), ()),
    (RolledBack(2, "late", "moment"), ()),
    (Planned(3, (Change("a", entry("a", "1.0.0"), entry("a", "3.0.0")), Change("b", entry("b", "1.0.0"), None)), "t", "w"), ()),
    (Prepared(3), ()),
    (Committed(3, 1.0, 0), ()),
    (ImageSaved(("b",)), (image("b", 7),)),
    (Confirmed(3, ""), ()),
    (ImageSaved(("a",)), (image("a", 5, 1, 2),)),
    (HostStopped(clean=True), ()),
]  # fmt: skip


@pytest.mark.parametrize("length", range(1, len(A_LIFE) + 1))
def test_a_journal_cut_after_any_record_gives_all_old_or_all_new_and_twice_the_same(
    tmp_path: Path, length: int
) -> None:
    async def story() -> None:
        _Folder(tmp_path / "stage").stage("tree", COUNTER)
        record(tmp_path / "journal.db", A_LIFE[:length])
        commits = sum(isinstance(fact, Committed) for fact, _ in A_LIFE[:length])
        expected = [{}, {"a": "1.0.0", "b": "1.0.0"}, {"a": "3.0.0"}][commits]
        for start in (1, 2):
            async with host(tmp_path / "stage", tmp_path / "journal.db") as it:
                await idle(it.app)
                assert not it.recovered.failed
                assert {
                    n: p.implementation.version for n, p in it.app.modules.items() if p.implementation
                } == expected
                assert {n: e.version for n, e in it.book.ledger.table.items()} == expected
                assert it.book.ledger.unfinished is None
                if length >= 14:  # saved, with two messages that waited: given back once
                    assert state_of(it.app, "a")["total"] == (8 if start == 1 else 0)
                if length >= 12:  # the state of a module that left waits on
                    assert it.recovered.kept["b"].state == image("b", 7).state
        records = Journal.open(tmp_path / "journal.db", lambda: 1.0)
        ends = [r.fact.txn for r in records.records() if isinstance(r.fact, RolledBack)]
        records.close()
        assert len(ends) == len(set(ends))

    asyncio.run(story())


def test_a_module_that_cannot_come_back_is_stopped_keeps_its_state_and_ends_nobody(tmp_path: Path) -> None:
    """`sys.exit()` in take_over() at a start must not end each start of the host."""

    async def story() -> None:
        folder, diary = _Folder(tmp_path / "stage"), tmp_path / "diary"
        folder.stage("tree", COUNTER)
        folder.stage("bad", LEAVES)
        bad = entry("bad", "1.0.0", "bad", diary=str(diary))
        facts: list[tuple[Fact, Sequence[ModuleImage]]] = [
            (HostStarted(1, "0"), ()),
            (
                Planned(
                    1, (Change("bad", None, bad), Change("good", None, entry("good", "1.0.0"))), "t", "w"
                ),
                (),
            ),
            (Prepared(1), ()),
            (Committed(1, 1.0, 0), ()),
            (Confirmed(1, ""), ()),
            (ImageSaved(("bad", "good")), (image("bad", 3, 1), image("good", 4))),
            (HostStopped(clean=True), ()),
        ]
        record(tmp_path / "journal.db", facts)
        for start in (1, 2):
            async with host(tmp_path / "stage", tmp_path / "journal.db") as it:
                assert "SystemExit: 3" in it.recovered.failed["bad"]
                assert diary.read_text() == "stopped" * start
                assert set(it.app.modules) == {"good"}
                assert it.recovered.kept["bad"] == kept_state(image("bad", 3, 1))
                assert it.book.ledger.images == {"bad"}
        shutil.rmtree(tmp_path / "stage" / "bad")
        folder.stage("bad", COUNTER)  # as if what it lacked was there again
        async with host(tmp_path / "stage", tmp_path / "journal.db") as it:
            await idle(it.app)
            assert state_of(it.app, "bad")["total"] == 4
            assert not it.book.ledger.images

    asyncio.run(story())


def test_a_release_put_back_to_a_state_that_only_the_fatal_one_can_step_down_says_what_to_do(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        _Folder(tmp_path / "stage").stage("tree", COUNTER)
        old, new = entry("counter", "1.0.0"), entry("counter", "1.1.0", "tree2")
        facts: list[tuple[Fact, Sequence[ModuleImage]]] = [
            (HostStarted(1, "0"), ()),
            (Planned(1, (Change("counter", None, old),), "t", "w"), ()),
            (Prepared(1), ()),
            (Committed(1, 1.0, 0), ()),
            (Confirmed(1, ""), ()),
            (ImageSaved(("counter",)), (msgspec.structs.replace(image("counter", 3), state_version=2),)),
            (Quarantined("counter", new.commit_id, new.tag, "it ended the host", fatal=True), ()),
            (HostStopped(clean=True), ()),
        ]
        record(tmp_path / "journal.db", facts)
        async with host(tmp_path / "stage", tmp_path / "journal.db") as it:
            assert it.recovered.failed["counter"] == (
                "counter 1.0.0 cannot take up what is kept of it, which another release has left: No migration leads from "
                "state version 2 to 1 (steps there are: none). The steps of counter/v1.1.0 are not at hand: it ended the "
                "host, and no code of it is loaded. counter is out of service; its state and messages are kept, and nothing "
                "of them is lost. Push a new version of it that keeps that state version, or that has the step; or, once "
                "the cause is gone, livetag retry counter/v1.1.0 brings that one back."
            )
            assert it.recovered.kept["counter"].state_version == 2
            assert it.book.ledger.images == {"counter"}

    asyncio.run(story())


def test_two_deaths_in_the_hands_of_a_release_quarantine_it_one_does_not(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "stage").mkdir()
        path = tmp_path / "journal.db"
        for txn in (1, 2):
            planned = Planned(txn, (Change("a", None, entry("a", "1.0.0")),), "t", "w")
            record(path, [(planned, ())])
            async with host(tmp_path / "stage", path) as it:
                assert len(it.book.ledger.quarantine) == txn - 1

    asyncio.run(story())


def test_an_image_holds_what_was_under_way_and_the_dead_letters(tmp_path: Path) -> None:
    """What ended units gave out and found no room, waiting messages, and dead letters come back, under higher ids."""

    async def story() -> None:
        _Folder(tmp_path / "stage").stage("tree", COUNTER)
        record(tmp_path / "journal.db", A_LIFE[:5])
        async with host(tmp_path / "stage", tmp_path / "journal.db") as it:
            a, b = it.app.modules["a"], it.app.modules["b"]
            await it.app.send("b", "unknown", {})
            await idle(it.app)
            b.mailbox.limit = 1
            a.unit = it.app.message("add", {"n": 0}, "")  # as in a unit of a, which sends
            for n in (1, 2):
                a.voice.send("b", "add", {"n": n})
            a.unit = None
            images = take_image(it.app, it.book.ledger.table)
            it.book.write_now(ImageSaved(tuple(sorted(i.name for i in images))), images)
            ids = {i.name: i for i in images}
            assert len(ids["b"].mailbox) == 2
            assert newest_id(ids) == max(m.id for m in kept_state(ids["b"]).messages) > 0
        async with host(tmp_path / "stage", tmp_path / "journal.db") as it:
            await idle(it.app)
            assert state_of(it.app, "b")["total"] == 3
            assert [letter.message.type for letter in it.app.letters] == ["unknown"]
            assert not fold(it.book.journal.records()).images

    asyncio.run(story())
