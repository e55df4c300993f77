"""The journal, on a real disk: order, durability, the chain, and what happens when the disk says no."""

import asyncio
import errno
import itertools
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger

from orchestrator.runtime.durability import Write
from orchestrator.upgrade.errors import JournalCorrupt, JournalFailed
from orchestrator.upgrade.journal import Journal, ModuleImage, SqliteFile, Ticket
from orchestrator.upgrade.journal_file import Line, chain
from orchestrator.upgrade.journal_writer import WriterThread
from orchestrator.upgrade.records import (
    Change,
    Committed,
    Confirmed,
    Entry,
    Fact,
    HostStarted,
    HostStopped,
    ImageSaved,
    ImageUsed,
    Planned,
    Prepared,
    RolledBack,
    encode_fact,
)

ROOT = Path(__file__).resolve().parent.parent


def open_journal(folder: Path, write_timeout_s: float = 30.0) -> Journal:
    ticks = itertools.count(1_000)
    return Journal.open(folder / "journal.db", lambda: next(ticks) + 0.25, write_timeout_s)


def confirmed(number: int) -> Confirmed:
    return Confirmed(number, f"probation {number} passed")


def fill(folder: Path, count: int) -> None:
    journal = open_journal(folder)
    for number in range(1, count + 1):
        journal.append(confirmed(number))
    journal.close()


def edit(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "journal.db", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


def commits_in_wal(folder: Path) -> int:
    """Count the commits in the write-ahead log: a frame whose 'size after commit' is not zero ends one."""
    data = (folder / "journal.db-wal").read_bytes()
    step = 24 + int.from_bytes(data[8:12], "big")
    return sum(data[at + 4 : at + 8] != bytes(4) for at in range(32, len(data), step))


# --- order and durability (invariants 1 to 4, 8, 9)


def test_what_was_written_is_read_again_in_order(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    entry = Entry("a", "a", "1.0.0", "a/v1.0.0", "c1", "t1", "o1", {"port": 179, "deep": {"x": [1, None]}})
    facts: list[Fact] = [
        HostStarted(12, "0.1.0"),
        Planned(1, (Change("a", None, entry),), "push", "ann"),
        Prepared(1),
        RolledBack(1, "prepare() raised", "release", 0.5, 3),
        HostStopped(clean=True),
    ]
    written = [journal.write_now(fact) for fact in facts]
    journal.close()

    again = open_journal(tmp_path)
    assert again.records() == written
    assert [record.fact for record in written] == facts
    assert [record.seq for record in written] == [1, 2, 3, 4, 5]
    assert [record.at for record in written] == [1000.25, 1001.25, 1002.25, 1003.25, 1004.25]
    more = again.write_now(HostStarted(13, "0.1.0"))
    assert more.seq == 6
    again.close()


def test_an_append_alone_touches_no_disk_and_the_waker_sends_all_as_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path)
    journal.write_now(HostStarted(1, "x"))
    before = commits_in_wal(tmp_path)

    woken: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(journal._writer, "wake", lambda: woken.append(True))
        tickets = [journal.append(confirmed(number)) for number in range(200)]

    assert woken == []
    assert [ticket.record.seq for ticket in tickets] == list(range(2, 202))  # numbered at once
    assert commits_in_wal(tmp_path) == before
    assert not any(ticket.done for ticket in tickets)
    assert len(journal.records()) == 1
    journal.wake()
    wait_until(lambda: tickets[-1].done, "the last append is durable")
    assert commits_in_wal(tmp_path) == before + 1
    assert all(ticket.done for ticket in tickets)
    journal.close()


def test_waiting_for_a_ticket_wakes_the_writer(tmp_path: Path) -> None:
    async def story() -> None:
        ticket = journal.append(confirmed(1))
        assert (await asyncio.wait_for(ticket.wait(), 10)).fact == confirmed(1)
        assert (await ticket.wait()) == ticket.record  # and again, when it is done

    journal = open_journal(tmp_path)
    asyncio.run(story())
    journal.close()


def test_a_waiter_that_gives_up_does_not_take_the_record_back(tmp_path: Path) -> None:
    async def story() -> None:
        ticket = journal.append(confirmed(1))
        waiter = asyncio.ensure_future(ticket.wait())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        await ticket.wait()

    journal = open_journal(tmp_path)
    asyncio.run(story())
    journal.close()
    again = open_journal(tmp_path)
    assert [record.fact for record in again.records()] == [confirmed(1)]
    again.close()


def test_many_threads_and_a_loop_write_one_unbroken_chain(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)

    def produce(name: str) -> None:
        for number in range(50):
            journal.append(Confirmed(number, name))
            if number % 7 == 0:
                journal.wake()

    async def story() -> None:
        for number in range(50):
            await journal.write(Confirmed(number, "loop"))

    threads = [threading.Thread(target=produce, args=(f"thread {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(story())
    for thread in threads:
        thread.join()
    journal.close()

    again = open_journal(tmp_path)
    facts = [record.fact for record in again.records()]
    assert len(facts) == 250
    for name in ("loop", *(f"thread {number}" for number in range(4))):
        assert [f.txn for f in facts if isinstance(f, Confirmed) and f.reason == name] == list(range(50))
    again.close()


def test_a_wake_that_falls_between_two_steps_of_the_writer_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path)
    writer = journal._writer
    assert isinstance(writer, WriterThread)
    clear = writer._awake.clear
    late: list[Ticket] = []

    def clear_late() -> None:
        if not late:  # as if another thread ran just here
            late.append(journal.append(confirmed(2)))
            journal.wake()
        clear()

    monkeypatch.setattr(writer._awake, "clear", clear_late)
    journal.write_now(confirmed(1))
    wait_until(lambda: bool(late) and late[0].done, "the record of the late wake is durable")
    journal.close()


def test_only_its_owner_may_read_the_journal_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        journal = open_journal(tmp_path)
    finally:
        os.umask(old)
    journal.write_now(HostStarted(1, "x"))
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm"), 0o600)
    journal.close()


def test_the_disk_is_synced_before_a_ticket_is_done(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    file = journal._file
    assert isinstance(file, SqliteFile)
    assert file.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    ),
    reason=st.text(st.characters(exclude_categories=()), max_size=10),
)
def test_what_append_returns_equals_what_a_reopen_reads(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, object], reason: str
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = open_journal(folder)
    entry = Entry("a", "a", "1.0.0", "a/v1.0.0", "c1", "t1", "o1", config)
    returned = [
        journal.append(Planned(1, (Change("a", None, entry),), "push", reason)).record,
        journal.append(RolledBack(1, reason, "moment")).record,
    ]
    journal.close()
    again = open_journal(folder)
    assert again.records() == returned
    again.close()


def test_a_fact_that_could_not_be_read_back_is_refused_and_the_chain_goes_on(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    bad = Entry("", "a", "1.0.0", "a/v1.0.0", "c1", "t1", "o1")
    with pytest.raises(ValueError, match="length"):
        journal.append(Planned(1, (Change("a", None, bad),), "push", "ann"))
    unknown = Entry("a", "a", "1.0.0", "a/v1.0.0", "c1", "t1", "o1", {"x": object()})
    with pytest.raises(TypeError):
        journal.append(Planned(1, (Change("a", None, unknown),), "push", "ann"))
    assert journal.write_now(HostStarted(1, "x")).seq == 1
    journal.close()


CHILD = """
import sys, time
from pathlib import Path
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.records import Confirmed
journal = Journal.open(Path(sys.argv[1]), time.time)
number = len(journal.records())
while True:
    tickets = [journal.append(Confirmed(number + each, "x" * 300)) for each in range(5)]
    number += 5
    journal.wake()
    for ticket in tickets:
        ticket.wait_blocking(20)
    print(tickets[-1].record.seq, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_prefix_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged = 0
    for turn in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "journal.db")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for _ in range(3 + 17 * turn):
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split("\n")  # said between our last look and the kill
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1] if line)])
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL

        journal = open_journal(tmp_path)  # verifies the chain
        facts = [record.fact for record in journal.records()]
        journal.close()
        assert facts == [Confirmed(number, "x" * 300) for number in range(len(facts))]
        assert len(facts) >= acknowledged
    assert acknowledged > 100


# --- the chain (invariant 5)

TAMPERING = {
    "an edited fact": (["UPDATE journal SET fact = replace(fact, '3', '4') WHERE seq = 3"], 3),
    "an edited time": (["UPDATE journal SET at = at + 1 WHERE seq = 2"], 2),
    "an edited digest": (["UPDATE journal SET digest = zeroblob(32) WHERE seq = 4"], 4),
    "a text for a blob": (["UPDATE journal SET fact = 'x' WHERE seq = 5"], 5),
    "a missing first record": (["DELETE FROM journal WHERE seq = 1"], 1),
    "a missing middle record": (["DELETE FROM journal WHERE seq = 3"], 3),
    "a gap closed by renumbering": (
        ["DELETE FROM journal WHERE seq = 3", "UPDATE journal SET seq = seq - 1 WHERE seq > 3"],
        3,
    ),
    "two records swapped": (
        [
            "UPDATE journal SET seq = 100 WHERE seq = 2",
            "UPDATE journal SET seq = 2 WHERE seq = 3",
            "UPDATE journal SET seq = 3 WHERE seq = 100",
        ],
        2,
    ),
    "a cut end": (["DELETE FROM journal WHERE seq > 4"], 5),
    "everything gone": (["DELETE FROM journal"], 1),
    "a forged record at the end": (["INSERT INTO journal VALUES (7, 1.5, x'00', zeroblob(32))"], 7),
    "no head": (["DELETE FROM head"], 7),
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_tampering_is_found_at_open_and_the_first_bad_record_is_named(tmp_path: Path, kind: str) -> None:
    statements, seq = TAMPERING[kind]
    fill(tmp_path, 6)
    edit(tmp_path, *statements)
    before = (tmp_path / "journal.db").read_bytes()
    with pytest.raises(JournalCorrupt, match=f"record {seq} .*Restore journal.db") as caught:
        open_journal(tmp_path)
    assert caught.value.seq == seq
    assert (tmp_path / "journal.db").read_bytes() == before  # evidence is kept


def test_a_forged_record_with_a_fitting_digest_breaks_the_chain_after_it(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    journal = open_journal(tmp_path)
    second, third = journal.records()[1:3]
    journal.close()
    data = encode_fact(confirmed(99))
    digest = chain(second.digest, 3, third.at, data)
    edit(tmp_path, f"UPDATE journal SET fact = x'{data.hex()}', digest = x'{digest.hex()}' WHERE seq = 3")  # noqa: S608
    with pytest.raises(JournalCorrupt, match="record 4 ") as caught:
        open_journal(tmp_path)
    assert caught.value.seq == 4


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"these are not the bytes you are looking for" * 100)
    before = path.read_bytes()
    with pytest.raises(JournalCorrupt, match=r"journal.db is damaged: file is not a database"):
        open_journal(tmp_path)
    assert path.read_bytes() == before


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    fill(tmp_path, 300)
    data = bytearray((tmp_path / "journal.db").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = bytes(4096)
    (tmp_path / "journal.db").write_bytes(data)
    with pytest.raises(JournalCorrupt, match=r"Restore journal.db"):
        open_journal(tmp_path)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "journal.db")
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(JournalCorrupt, match="not a journal of livetag"):
        open_journal(tmp_path)


def test_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    edit(tmp_path, "PRAGMA user_version = 99")
    with pytest.raises(JournalCorrupt, match=r"format 99.*Start it with the newer livetag"):
        open_journal(tmp_path)


# --- a disk that says no (invariant 7)


def test_an_open_that_fails_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(JournalFailed, match=r"cannot be opened: .*Check that"):
        open_journal(tmp_path / "no" / "such" / "folder")


def test_after_a_failed_write_nothing_more_is_taken_and_the_start_finds_a_prefix(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.write_now(confirmed(1))
    edit(tmp_path, "DROP TABLE head")  # any failure of a write will do; a full disk follows below
    first, second = journal.append(confirmed(2)), journal.append(confirmed(3))

    async def story() -> None:
        for ticket in (first, second):
            with pytest.raises(
                JournalFailed, match=r"record 2: .*known only at the next start.*restart the host"
            ):
                await ticket.wait()

    asyncio.run(story())
    assert journal.failed is not None
    with pytest.raises(JournalFailed, match="record 2"):
        journal.append(confirmed(4))
    with pytest.raises(JournalFailed, match="record 2"):
        journal.write_now(confirmed(4))
    journal.close()
    journal.close()
    edit(
        tmp_path,
        "CREATE TABLE head (one INTEGER PRIMARY KEY, seq INTEGER, digest BLOB)",
        "INSERT INTO head SELECT 1, seq, digest FROM journal ORDER BY seq DESC LIMIT 1",
    )
    again = open_journal(tmp_path)
    assert [record.fact for record in again.records()] == [confirmed(1)]
    again.close()


class FailsOnce(SqliteFile):
    """A disk that fails at one sync, and says at the next that all is well: the data of the first is gone."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes = 0

    def write(self, lines: Sequence[Line], head: tuple[int, bytes], writes: Sequence[Write] = ()) -> None:
        self.writes += 1
        if self.writes == 1:
            raise OSError(errno.EIO, "fsync")
        super().write(lines, head, writes)


def test_a_write_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    """Whoever met it may have been a command, which tells nobody who reads the log."""
    file = FailsOnce(tmp_path / "journal.db")
    journal = Journal(file, lambda: 1.0)
    told: list[str] = []
    sink = logger.add(told.append, format="{level} {message}", level="WARNING")
    for number in (1, 2):
        with pytest.raises(JournalFailed, match=r"record 1: .*fsync"):
            journal.write_now(confirmed(number))
    journal.close()
    logger.remove(sink)
    assert file.writes == 1
    (line,) = told
    assert re.match(r"ERROR no more upgrades until the host is restarted: .* record 1: .*fsync", line)


def test_a_journal_that_is_closed_has_not_failed(tmp_path: Path) -> None:
    told: list[str] = []
    sink = logger.add(told.append, format="{message}", level="WARNING")
    Journal.open(tmp_path / "journal.db", lambda: 1.0).close()
    logger.remove(sink)
    assert told == []


FULL_DISK = """
import resource, sys, time
from pathlib import Path
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.records import Confirmed
journal = Journal.open(Path(sys.argv[1]), time.time)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
acknowledged = 0
try:
    while acknowledged < 10_000:
        journal.write_now(Confirmed(acknowledged, "x" * 1000))
        acknowledged += 1
except JournalFailed as error:
    print(acknowledged, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
try:
    journal.append(Confirmed(acknowledged, "there is room again"))
except JournalFailed as error:
    print("still refused")
journal.close()
"""


@pytest.mark.parametrize("room", [80_000, 55_000, 200_001])
def test_a_disk_that_fills_up_fails_once_and_for_all_and_loses_nothing_acknowledged(
    tmp_path: Path, room: int
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "journal.db"), str(room)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second = run.stdout.splitlines()
    acknowledged = int(first.split()[0])
    assert 0 < acknowledged < 10_000
    assert f"could not write record {acknowledged + 1}: " in first
    assert second == "still refused"
    journal = open_journal(tmp_path)
    facts = [record.fact for record in journal.records()]
    journal.close()
    assert facts == [Confirmed(number, "x" * 1000) for number in range(len(facts))]
    assert len(facts) in (acknowledged, acknowledged + 1)  # the one in doubt


def test_a_second_writer_on_the_file_is_found_out(tmp_path: Path) -> None:
    one, two = open_journal(tmp_path), open_journal(tmp_path)
    one.write_now(confirmed(1))
    with pytest.raises(JournalFailed, match="could not write record 1"):
        two.write_now(confirmed(2))
    one.write_now(confirmed(3))
    one.close()
    two.close()
    again = open_journal(tmp_path)
    assert [record.fact for record in again.records()] == [confirmed(1), confirmed(3)]
    again.close()


def test_a_write_that_does_not_end_is_given_up_and_nothing_follows_it(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, write_timeout_s=0.2)
    blocker = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    async def story() -> None:
        with pytest.raises(JournalFailed, match=r"record 1: it did not end within 0.2 s"):
            await journal.write(confirmed(1))

    asyncio.run(story())
    with pytest.raises(JournalFailed):
        journal.append(confirmed(2))
    blocker.execute("ROLLBACK")
    blocker.close()
    journal._writer.join(20)
    assert isinstance(journal._writer, WriterThread)
    assert not journal._writer.thread.is_alive()
    journal.close()


def test_a_closed_journal_writes_what_waited_and_takes_nothing_more(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    ticket = journal.append(confirmed(1))
    journal.close()
    assert ticket.done
    assert ticket.wait_blocking(0) == ticket.record
    with pytest.raises(JournalFailed, match="the journal is closed"):
        journal.append(confirmed(2))


# --- images (invariant 6)

IMAGES = [
    ModuleImage("a", "counter", 2, b"\x81\xa1n\x01", (b"one", b"two")),
    ModuleImage("b", "counter", 2, b"\x80"),
]


def test_images_come_back_after_a_stop_until_they_are_used(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.write_now(HostStarted(1, "x"))
    journal.write_now(ImageSaved(("a", "b")), IMAGES)
    journal.close()

    journal = open_journal(tmp_path)
    images = journal.load_images()
    assert list(images) == ["a", "b"]
    assert (images["a"].state, images["a"].mailbox, images["a"].saved_seq) == (
        b"\x81\xa1n\x01",
        (b"one", b"two"),
        2,
    )
    journal.write_now(ImageUsed(("a",)))
    assert list(journal.load_images()) == ["b"]
    journal.write_now(ImageSaved(("a",)), [ModuleImage("a", "counter", 3, b"\x90")])
    journal.close()

    journal = open_journal(tmp_path)
    assert {name: image.state_version for name, image in journal.load_images().items()} == {"a": 3, "b": 2}
    journal.write_now(Committed(1, 9.0, 0, images_used=("b",)))
    assert list(journal.load_images()) == ["a"]
    journal.close()
    journal = open_journal(tmp_path)
    assert list(journal.load_images()) == ["a"]
    journal.close()


def test_an_image_without_its_fact_is_refused(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for fact, image in ((ImageSaved(("a",)), IMAGES), (ImageSaved(("a",)), []), (ImageUsed(("a",)), IMAGES)):
        with pytest.raises(ValueError, match="do not match"):
            journal.append(fact, image)
    journal.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE image SET body = replace(body, 'one', 'eno') WHERE name = 'a'",
        "DELETE FROM image WHERE name = 'a'",
        "UPDATE image SET saved_seq = 7 WHERE name = 'a'",
        "INSERT INTO image SELECT 'c', saved_seq, body, digest FROM image WHERE name = 'a'",
    ],
)
def test_an_edited_image_is_not_given_back(tmp_path: Path, statement: str) -> None:
    journal = open_journal(tmp_path)
    journal.write_now(ImageSaved(("a", "b")), IMAGES)
    journal.close()
    edit(tmp_path, statement)
    journal = open_journal(tmp_path)
    with pytest.raises(JournalCorrupt, match=r"the state of [ac].*Restore journal.db"):
        journal.load_images()
    journal.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_is_taken_away_under_the_host_takes_nothing_more(
    tmp_path: Path, replaced: bool
) -> None:
    journal = open_journal(tmp_path)
    journal.write_now(confirmed(1))
    (tmp_path / "journal.db").rename(tmp_path / "elsewhere.db")
    if replaced:
        (tmp_path / "journal.db").write_bytes(b"")
    with pytest.raises(JournalFailed, match=r"was removed or replaced while the host runs.*restart the host"):
        journal.write_now(confirmed(2))
    assert journal.failed
    journal.close()
