"""A release that was confirmed and ends the host at each start: quarantined, and what served before it serves again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repo_store import failpoints
from tests.crash.victim import Victim, kinds, voice
from tests.git_fixtures import clean_environment
from tests.stories.deployment import wait_until

LETHAL = """
    import os, signal, threading, time
    from livetag import Module, handles, every

    def dies(where):
        try:
            with open({trap!r}) as trap:
                armed = trap.read() == where
        except FileNotFoundError:
            armed = False
        if armed:
            os.kill(os.getpid(), signal.SIGKILL)

    dies("import")

    class Voice(Module):
        def initial_state(self):
            return {{"asked": 0}}

        async def prepare(self):
            dies("prepare")
            def later():
                time.sleep(2.0)
                dies("thread")
            threading.Thread(target=later, daemon=True).start()

        def take_over(self, resources):
            dies("take_over")

        @handles
        def loaded(self) -> str:
            dies("message")
            self.state["asked"] += 1
            return "1.1.0"

        @handles
        def told(self) -> dict:
            return self.state

        @handles
        def note(self, number: int) -> None:
            pass

        @handles
        async def brood(self, seconds: float) -> None:
            pass

        @handles
        def drop(self) -> None:
            pass

        @every(seconds=2.0)
        def tick(self):
            dies("timer")
"""


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    made = Victim(tmp_path)
    made.calm()
    made.place.config_file.write_text(
        "[host]\nsettle_s = 60.0\n"
    )  # so that a slow machine counts no death too late
    try:
        yield made
    finally:
        made.close()


def deployed(victim: Victim, *, first: bool) -> Path:
    """Two modules; hen 1.1.0 ends the host once its trap says where. `first`: nothing of hen served before it."""
    trap = victim.path.parent / "trap"
    victim.start()
    victim.deploy("egg/v1.0.0", egg=voice("1.0.0"))
    if not first:
        victim.deploy("hen/v1.0.0", hen=voice("1.0.0"))
    victim.deploy("hen/v1.1.0", hen=LETHAL.format(trap=str(trap)))
    victim.stop()
    return trap


def start_until_it_stays(victim: Victim, poke: Callable[[], object], starts_max: int = 6) -> int:
    """Start it again and again, as a service manager does; returns how many starts ended in a death."""
    for deaths in range(starts_max):
        victim.host = victim.spawn()
        wait_until(lambda: victim.dead or victim.answers(), "it answers or dies", 30.0)
        if not victim.dead:
            poke()
            if not _dies(victim):
                return deaths
        victim.buried()
    raise AssertionError(f"it died at each of {starts_max} starts:\n{victim.said()}")


def _dies(victim: Victim) -> bool:
    try:
        wait_until(lambda: victim.dead, "it dies", 4.0)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("where", "deaths"),
    [
        ("import", 2),
        pytest.param("take_over", 2, marks=pytest.mark.slow),
        ("message", 2),
        pytest.param("timer", 2, marks=pytest.mark.slow),
        pytest.param("thread", 3, marks=pytest.mark.slow),
    ],
)
def test_a_release_that_ends_the_host_at_each_start_gives_way_to_the_one_before(
    victim: Victim, where: str, deaths: int
) -> None:
    trap = deployed(victim, first=False)
    before = victim.git("rev-parse", "hen/v1.0.0^{commit}")
    victim.git(
        "tag", "-d", "hen/v1.0.0"
    )  # no tag asks for it any more: the journal alone knows what served before
    trap.write_text(where)

    def poke() -> None:
        victim.livetag("ask", "hen", "loaded")  # the answer may never come

    assert start_until_it_stays(victim, poke) == deaths
    assert victim.version("hen") == "1.0.0"
    assert victim.ask("hen", "loaded").startswith("1.0.0")
    assert victim.ask("egg", "loaded").startswith("1.0.0")
    held = victim.status()["quarantine"]
    assert [row["tag"] for row in held] == ["hen/v1.1.0"]
    assert "right after its start" in held[0]["reason"]
    assert victim.history()[0]["modules"][0]["to"] == "1.0.0"
    wait_until(
        lambda: victim.git("rev-parse", "refs/live/hen") == before,
        "Git says it too",
    )
    trap.unlink()
    victim.deploy("hen/v1.2.0", hen=voice("1.2.0"))
    assert victim.ask("hen", "loaded").startswith("1.2.0")


def test_where_nothing_served_before_the_host_starts_without_it_and_says_why(victim: Victim) -> None:
    trap = deployed(victim, first=True)
    trap.write_text("import")
    assert start_until_it_stays(victim, lambda: None) == 2
    row = victim.status()["modules"]["hen"]
    assert row["state"] == "failed"
    assert "is not loaded: the host died 2 times in a row right after its start" in row["problem"]
    assert victim.ask("egg", "loaded").startswith("1.0.0")
    victim.kill()
    victim.start()
    assert victim.status()["modules"]["hen"]["state"] == "failed"
    trap.unlink()
    victim.livetag("retry", "hen/v1.1.0")
    victim.stop()
    victim.start()
    assert victim.ask("hen", "loaded") == "1.1.0"


def test_a_host_that_is_killed_from_outside_accuses_nobody_that_has_lasted(victim: Victim) -> None:
    """kill -9 by a person or the kernel, however often: what has lasted through one start is not suspected for it."""
    config = victim.place.config_file
    config.write_text("[host]\nsettle_s = 0.2\n")
    deployed(victim, first=False)
    victim.start()
    wait_until(lambda: kinds(victim).count("Settled") == 2, "this start has lasted too")
    victim.kill()
    config.write_text(config.read_text().replace("settle_s = 0.2", "settle_s = 60.0"))
    for _ in range(4):
        victim.start()
        victim.kill()
    assert dict(victim.ledger().quarantine) == {}
    _is_told_everywhere(victim)
    assert victim.version("hen") == "1.1.0"
    _comes_up_without_hen(victim)


def _is_told_everywhere(victim: Victim) -> None:
    """It has no end of its own: who looks must see it, and what to do. Leaves a host that runs."""
    row = "4 hosts in a row ended within 60 s of their start"
    for command in ("doctor", "status"):  # no host runs
        seen = _flat(victim.livetag(command))
        assert row in seen, seen
        assert "livetag run --without MODULE" in seen
    assert "5 hosts in a row" not in victim.said()
    victim.start()
    assert row in victim.said()
    assert row in victim.status()["crash_row"]["what"]
    seen = _flat(victim.livetag("status"))
    assert f"crash loop: {row}" in seen, seen
    assert row in _flat(victim.livetag("doctor"))


def _flat(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def _comes_up_without_hen(victim: Victim) -> None:
    """By hand, with what hen had kept: a version that works takes it over."""
    asked = victim.ask("hen", "told")["asked"] + 1
    victim.ask("hen", "loaded")
    victim.stop()
    _run_without(victim, "goose")
    wait_until(lambda: victim.dead, "no such module", 30.0)
    victim.buried()
    assert "--without names goose, and the modules in service are: egg, hen" in victim.said()
    _run_without(victim, "hen")
    wait_until(victim.answers, "it serves", 30.0)
    row = victim.status()["modules"]["hen"]
    assert row["state"] == "failed"
    assert "left out of this start by --without; its state and messages are kept" in row["problem"]
    assert victim.status()["crash_row"] is None
    assert victim.ask("egg", "loaded").startswith("1.0.0")
    victim.deploy("hen/v1.2.0", hen=voice("1.2.0"))
    assert victim.ask("hen", "told")["asked"] == asked


def _run_without(victim: Victim, module: str) -> None:
    command = [sys.executable, "-m", "livetag", "run", str(victim.place.path), "--without", module]
    with victim.log.open("ab") as log:
        victim.host = subprocess.Popen(
            command, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


@pytest.mark.parametrize("point", ["recovery.started:after", "stage.sweep:before"])
def test_a_host_that_dies_before_it_has_run_any_module_code_accuses_nobody(
    victim: Victim, point: str
) -> None:
    """Of a release that has never lasted, too: out of memory, a full disk, an impatient service manager."""
    deployed(victim, first=True)
    victim.env = {failpoints.VARIABLE: "1"}
    for _ in range(4):
        victim.aim(f"{point} 1 kill")
        (victim.place.stage / ".tmp-left").mkdir(exist_ok=True)  # something to sweep
        victim.host = victim.spawn()
        wait_until(lambda: victim.dead, "it dies early", 30.0)
        assert [each for each, _ in victim.trace()][-1] == point
        victim.buried()
    victim.calm()
    victim.start()
    assert victim.status()["quarantine"] == []
    assert victim.ask("egg", "loaded").startswith("1.0.0")
    assert victim.version("hen") == "1.1.0"
    assert "StartDied" not in kinds(victim)


def test_three_kills_accuse_nobody_that_has_served_for_a_while_since_its_switch(victim: Victim) -> None:
    """A release of last month that has never been started, and an impatient person: nothing goes back."""
    config = victim.place.config_file
    config.write_text("[host]\nsettle_s = 0.2\n")
    victim.start()
    victim.deploy("hen/v1.0.0", hen=voice("1.0.0"))
    victim.deploy("hen/v1.1.0", hen=voice("1.1.0"))
    wait_until(lambda: lasted(kinds(victim)), "the last switch has lasted")
    config.write_text("[host]\nsettle_s = 60.0\n")
    for _ in range(4):
        victim.kill()
        victim.start()
    assert victim.status()["quarantine"] == []
    assert victim.version("hen") == "1.1.0"


def lasted(found: list[str]) -> bool:
    """Whether the last commit is followed by the record that it has served for a while."""
    return "Served" in found[len(found) - found[::-1].index("Committed") :]


def test_a_host_that_leaves_with_an_error_of_its_own_accuses_nobody(victim: Victim) -> None:
    deployed(victim, first=False)
    blocked = victim.place.socket
    blocked.mkdir()  # not a socket: each start ends with exit 1, after the modules were loaded
    for _ in range(4):
        victim.host = victim.spawn()
        assert victim.host.wait(30) == 1
    blocked.rmdir()
    victim.start()
    assert victim.version("hen") == "1.1.0"
    assert victim.status()["quarantine"] == []
