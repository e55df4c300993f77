"""The host is killed while three modules change together: all old or all new, as the journal says, however often it starts."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Mapping
from functools import partial

import pytest

from orchestrator.upgrade.book import Book
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.ledger import Ledger, fold
from orchestrator.upgrade.records import Change, Committed, Planned, Prepared
from tests.git_fixtures import clean_environment
from tests.stories.deployment import Deployment, wait_until

SEED = 20_02
KILLS = 20
MODULES = ("hen", "egg", "nest")
# Where a kill is aimed from, and how long after it at most: half of them over the whole transaction, half around its
# decision, which takes milliseconds and would hardly ever be hit otherwise.
AIMS = ((": planned", 0.4), (": prepared", 0.02))


def voice(version: str) -> str:
    """Write a module that says which version of it is loaded."""
    return f"""
        from livetag import Module, handles

        class Voice(Module):
            @handles
            def loaded(self) -> str:
                return {version!r}
    """


def release(deployment: Deployment, version: str) -> list[str]:
    """Commit all three modules in that version under a tag each, and return the tags."""
    for name in MODULES:
        deployment.write(name, voice(version))
    tags = [f"{name}/v{version}" for name in MODULES]
    deployment.release(*tags)
    return tags


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_kill_at_any_moment_leaves_all_old_or_all_new(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the clock aims. Each run of the tests kills at chosen steps and system calls instead (tests/crash)."""
    chance = random.Random(SEED)  # noqa: S311  # no secret
    assert deployment.push("main", *release(deployment, "1.0.0")).returncode == 0
    old = "1.0.0"
    ends: list[str] = []
    for number in range(1, KILLS + 1):
        new = f"1.{number}.0"
        tags = release(deployment, new)
        kill_inside(deployment, tags, *AIMS[number % 2], chance)
        ledger = read_journal(deployment)
        said = {name: entry.version for name, entry in ledger.table.items()}
        assert said in (dict.fromkeys(MODULES, old), dict.fromkeys(MODULES, new)), ledger.transactions
        ends.append(end_of(ledger))
        back = said["hen"]
        if back == old and number % 4:
            deployment.git("tag", "-d", *tags)  # nothing asks for the new ones any more: the old ones stay

        deployment.start()

        if number % 4 == 0:
            wait_until(partial(serves, deployment, new), "the tags that are still there go live")
            back = new
        assert loaded(deployment) == dict.fromkeys(MODULES, back)
        if number % 4 == 1:
            deployment.kill()
            deployment.start()
            assert loaded(deployment) == dict.fromkeys(MODULES, back), "starting twice gives the same"
        old = back

    assert deployment.status()["quarantine"] == []
    with capsys.disabled():
        print(f"\n{KILLS} kills: {', '.join(f'{ends.count(end)} {end}' for end in sorted(set(ends)))}")  # noqa: T201
    assert {"before the decision", "after the decision"} <= set(ends), "void: the kills were all on one side"


def test_a_death_right_after_the_decision_is_not_held_against_the_release_for_ever(
    deployment: Deployment,
) -> None:
    """Between COMMITTED and CONFIRMED lies a moment that no kill from outside hits at will: the journal is written so."""
    assert deployment.push("main", *release(deployment, "1.0.0")).returncode == 0
    deployment.kill()
    journal = Journal.open(deployment.place.journal, time.time)
    try:
        book = Book(journal)
        entry = book.ledger.table["hen"]
        txn = book.ledger.next_txn
        for fact in (
            Planned(txn, (Change("hen", entry, entry),), entry.tag, "test"),
            Prepared(txn),
            Committed(txn, 50.0, 0),
        ):
            book.write_now(fact)
    finally:
        journal.close()

    for _ in range(3):
        deployment.start()
        deployment.kill()

    ledger = read_journal(deployment)
    assert dict(ledger.quarantine) == {}
    assert ledger.in_probation == ()


def kill_inside(
    deployment: Deployment, tags: list[str], aim: str, most_s: float, chance: random.Random
) -> None:
    """Push, and kill the host at a moment after the push has printed `aim`."""
    command = ["git", "push", "live", "main", *tags]
    with subprocess.Popen(
        command, cwd=deployment.work.path, env=clean_environment(), stderr=subprocess.PIPE, text=True
    ) as push:
        assert push.stderr is not None
        printed = ""
        while aim not in printed:
            line = push.stderr.readline()
            assert line, f"the push never said {aim!r}: {printed}"
            printed += line
        time.sleep(chance.uniform(0, most_s))  # not a wait for something: the random moment itself
        deployment.kill()
        printed += push.stderr.read()
        assert push.wait(30) == 0, f"whatever became of it, the tags stay: {printed}"


def read_journal(deployment: Deployment) -> Ledger:
    """What the journal of the dead host says."""
    journal = Journal.open(deployment.place.journal, time.time)
    try:
        return fold(journal.records())
    finally:
        journal.close()


def end_of(ledger: Ledger) -> str:
    """On which side of the decision the host died."""
    return "after the decision" if ledger.unfinished is None else "before the decision"


def serves(deployment: Deployment, version: str) -> bool:
    """Whether all three are in service in that version; they are never seen in different ones."""
    seen = {row["version"] for row in deployment.status()["modules"].values()}
    assert len(seen) == 1, f"mixed: {seen}"
    return seen == {version}


def loaded(deployment: Deployment) -> Mapping[str, str]:
    """Which version's code answers, module by module."""
    return {name: deployment.ask(name, "loaded") for name in MODULES}


def test_a_crash_in_c_code_says_where_it_was(deployment: Deployment) -> None:
    """An author's extension may take the process with it; nothing else would tell why."""
    assert deployment.host is not None
    deployment.host.send_signal(signal.SIGSEGV)
    assert deployment.host.wait(10) == -signal.SIGSEGV
    deployment.host = None
    said = deployment.said()
    assert "Fatal Python error: Segmentation fault" in said
    assert "most recent call first" in said


def test_a_callback_that_exits_does_not_end_the_host(deployment: Deployment) -> None:
    """It would end in good order, at each start anew, and nothing would accuse the release."""
    deployment.write(
        "counter",
        """
        import asyncio
        import sys
        from livetag import Module, handles

        class Counter(Module):
            @handles
            def leave(self) -> None:
                loop = asyncio.get_running_loop()
                loop.call_soon(sys.exit, 3)
                loop.call_later(0.01, self.interrupt)  # of two in one turn uvloop tells one

            @handles
            async def later(self) -> str:
                return "still here"

            def interrupt(self):
                raise KeyboardInterrupt
        """,
    )
    deployment.release("counter/v1.0.0")
    assert deployment.push("main", "counter/v1.0.0").returncode == 0
    deployment.ask("counter", "leave")
    wait_until(lambda: "raised KeyboardInterrupt" in deployment.said(), "both were called back")
    assert "a callback on the event loop raised SystemExit: 3. The host goes on" in deployment.said()
    assert "in interrupt" in deployment.said()  # the trace names the module's line
    assert deployment.ask("counter", "later") == "still here"
    assert deployment.stop() == 0


def test_a_journal_that_has_lost_its_end_is_told_before_and_at_the_start(deployment: Deployment) -> None:
    """Its hash chain is whole, and so is what SQLite finds: a byte that flips in journal.db-wal ends it there."""
    for version in ("1.0.0", "1.1.0"):
        assert deployment.push("main", *release(deployment, version)).returncode == 0
    deployment.kill()
    wal = deployment.place.journal.with_name("journal.db-wal")
    data = bytearray(wal.read_bytes())
    data[len(data) * 3 // 4] ^= 0x40
    wal.write_bytes(data)
    doctor = deployment.livetag("doctor")
    assert doctor.returncode != 0
    assert "the journal ends with record" in doctor.stdout
    deployment.start()
    assert "ERROR   the journal ends with record" in deployment.said()
    assert deployment.stop() == 0
    assert (
        "the journal ends with record" not in deployment.livetag("doctor").stdout
    )  # said once: it goes on from there
