"""Syncs that fail or take long, by strace: the kernel answers so, and no code of ours knows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.control.client import ControlError
from tests.crash.aftermath import check
from tests.crash.conftest import Bases
from tests.crash.scenarios import COMPOSITION
from tests.crash.victim import Victim
from tests.stories.deployment import wait_until

SYNCS = "fsync,fdatasync"
SLOW_S = 0.3


class Traced:
    """Hosts under strace, which answers some of their calls itself."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "strace.log"

    def start(self, victim: Victim, injection: str) -> None:
        """Start a host whose syncs are answered so; it is our child, strace a grandchild."""
        with victim.log.open("ab") as log:
            victim.host = subprocess.Popen(
                [
                    *("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-y", "-o", str(self.log)),
                    *("-e", f"trace={SYNCS},pwrite64", "-e", f"inject={SYNCS}:{injection}"),
                    *(sys.executable, "-m", "livetag", "run", str(victim.path)),
                ],
                env=victim._env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: victim.dead or victim.answers(), "it answers or ends", 60.0)

    def journal_calls(self) -> list[tuple[str, str]]:
        """The writes and syncs of the write-ahead log, in order: name of the call, and what became of it."""
        found = re.findall(r"(\w+)\(\d+<[^>]*journal\.db-wal>.*\)\s+= (.*)", self.log.read_text())
        return [(call, "failed" if "EIO" in result else "done") for call, result in found]


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed, which answers system calls for the kernel")
    tried = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", f"inject={SYNCS}:error=EIO", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"strace may not follow processes here, or is too old: {tried.stderr.strip()[-200:]}")
    return Traced(tmp_path)


SYNC = [  # of the thread that makes it: in service, and in a start
    4,
    pytest.param(1, marks=pytest.mark.slow),
    *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 5, 6, 7)),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", SYNC)
def test_a_sync_of_the_journal_that_fails_is_never_retried_and_a_restart_is_right(
    bases: Bases, traced: Traced, number: int
) -> None:
    """Only that one sync fails, as a disk's does: Linux reports lost pages once, and a retry would succeed."""
    with bases.victim(COMPOSITION) as victim:
        victim.calm()
        traced.start(victim, f"error=EIO:when={number}")
        if victim.dead:
            assert victim.host is not None
            assert victim.host.wait() == 1, "it ends with words"
            victim.buried()
        else:
            assert COMPOSITION.drive is not None
            with COMPOSITION.drive(victim) as pushing:
                pushing.communicate(timeout=60)
            failed = any(result == "failed" for _, result in traced.journal_calls())
            problem = victim.status()["problem"] or ""
            assert ("the journal could not write record" in problem) == failed
            assert victim.stop() == (1 if failed else 0)
        calls = traced.journal_calls()
        assert len(calls) >= 2, "void: nothing was traced"
        failures = [index for index, (_, result) in enumerate(calls) if result == "failed"]
        after = calls[failures[0] + 1 :] if failures else []
        # SQLite syncs once more when it is closed, and moves what was safe before into the database: no new record.
        assert "pwrite64" not in dict(after), "written after a sync that failed"
        assert not failures or "could not write record" in victim.said()
        check(victim, COMPOSITION)


@pytest.mark.timeout(300)
def test_a_slow_disk_makes_a_push_slow_and_no_message(bases: Bases, traced: Traced) -> None:
    with bases.victim(COMPOSITION) as victim:
        victim.calm()
        traced.start(victim, f"delay_enter={int(SLOW_S * 1e6)}")
        assert COMPOSITION.drive is not None
        took = []
        begun = time.monotonic()
        with COMPOSITION.drive(victim) as pushing:
            while pushing.poll() is None:
                asked = time.monotonic()
                try:
                    victim.ask("coop", "told")
                except ControlError as error:
                    pytest.fail(str(error))
                took.append(time.monotonic() - asked)
            said, _ = pushing.communicate()
        assert pushing.returncode == 0, said
        assert time.monotonic() - begun > 3 * SLOW_S, "void: the disk was not slow"
        assert sorted(took)[len(took) // 2] < SLOW_S / 2, "a message waited for the disk"
        assert victim.stop() == 0
        assert check(victim, COMPOSITION) == "new"
