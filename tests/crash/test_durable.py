"""Durable modules in a host that is killed: every message that was accepted is handled once, in order (DESIGN §6 P2).

Numbered messages go from outside to a, from a to b, both durable, and a fails on every seventh; m, in memory, hears too.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.control.client import ControlError
from orchestrator.upgrade.journal import Journal
from orchestrator.upgrade.ledger import fold
from tests.crash.conftest import FIGURE
from tests.crash.victim import Victim
from tests.stories.deployment import wait_until

SENDERS = 3
FAILS_EACH = 7

FIRST = """
    from livetag import Module, Table, handles

    class First(Module):
        seen: Table[str, int] = Table(version=1)

        def initial_state(self):
            return {"total": 0}

        @handles
        def add(self, by: int, n: int) -> None:
            self.state["total"] += n
            self.seen[f"{by}/{n}"] = self.state["total"]
            self.send("b", "add", {"by": by, "n": n})
            self.send("m", "add", {"by": by, "n": n})
            if n % 7 == 0:
                raise ValueError("a seventh")

        @handles
        def told(self) -> dict:
            return {"total": self.state["total"], "seen": sorted(self.seen)}
"""
SECOND = """
    from livetag import Module, Table, handles

    class Second(Module):
        order: Table[int, str] = Table(version=1)

        def initial_state(self):
            return {"total": 0, "count": 0}

        @handles
        def add(self, by: int, n: int) -> None:
            self.state["total"] += n
            self.state["count"] += 1
            self.order[self.state["count"]] = f"{by}/{n}"

        @handles
        def told(self) -> dict:
            return {"total": self.state["total"], "order": [self.order[i + 1] for i in range(self.state["count"])]}
"""
DURABLE = "durable = true\n"


class Load:
    """Numbered messages from some senders, each in order, until the host is gone."""

    def __init__(self, victim: Victim, type_: str = "add") -> None:
        self._victim = victim
        self._type = type_
        self.accepted: list[set[int]] = [set() for _ in range(SENDERS)]
        self._tried: list[int] = [0] * SENDERS
        self.failure: str = ""
        self._stop = threading.Event()

    @contextmanager
    def runs(self) -> Iterator[None]:
        self._stop.clear()
        threads = [threading.Thread(target=self._send, args=(by,), daemon=True) for by in range(SENDERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()

    def _send(self, by: int) -> None:
        while not self._stop.is_set():
            n = self._tried[by] = self._tried[by] + 1
            try:
                self._victim.send("a", self._type, by=by, n=n)
            except (ControlError, OSError):
                return
            self.accepted[by].add(n)

    def check_handled(self, seen: list[str]) -> None:
        """Each once, in its sender's order, all that were accepted; of what was not, at most what was under way."""
        for by in range(SENDERS):
            mine = [int(each.partition("/")[2]) for each in seen if each.startswith(f"{by}/")]
            assert mine == sorted(set(mine)), f"doubled or out of order: {mine}"
            assert not (missing := self.accepted[by] - set(mine)), f"sender {by}: lost {sorted(missing)}"
            assert not (unsent := set(mine) - set(range(1, self._tried[by] + 1))), (
                f"never sent: {sorted(unsent)}"
            )

    @property
    def count(self) -> int:
        return sum(map(len, self.accepted))


def make_chain(path: Path) -> Victim:
    victim = Victim(path)
    victim.calm()
    victim.start()
    victim.write("a", {"__init__.py": FIRST, "module.toml": DURABLE})
    victim.write("b", {"__init__.py": SECOND, "module.toml": DURABLE})
    victim.write("m", SECOND)
    tags = ("a/v1.0.0", "b/v1.0.0", "m/v1.0.0")
    victim.release(*tags)
    pushed = victim.push("main", *tags)
    assert pushed.returncode == 0, pushed.stderr
    victim.stop()
    return victim


def arm(victim: Victim) -> None:
    """From the next start on it dies as its plan says."""
    from repo_store import failpoints  # beside its one use

    victim.env = {failpoints.VARIABLE: "1"}
    victim.aim("")


def start(victim: Victim) -> None:
    """A start that has lasted: a death soon after one would be held against the modules."""
    victim.aim("")
    victim.start()
    wait_until(lambda: ("recovery.settled:after", 1) in victim.trace(), "the start has lasted")


def idle(victim: Victim, *names: str) -> Callable[[], bool]:
    def look() -> bool:
        rows = victim.status()["modules"]
        return all(rows[name]["mailbox"]["length"] == 0 for name in names)

    return look


def kill_at(victim: Victim, load: Load, plan: str) -> None:
    """Let the load run until the host dies by the plan (empty: by a signal, some time in)."""
    victim.aim(plan)
    with load.runs():
        if plan:
            wait_until(lambda: victim.dead, "the host dies", 30.0)
        else:
            before = load.count
            more = random.randint(1, 200)  # noqa: S311  # no secret
            wait_until(lambda: load.count > before + more, "some are accepted", 30.0)
            assert victim.host is not None
            victim.host.kill()
    victim.buried()


def check_chain(victim: Victim, load: Load) -> None:
    """After a restart: nothing lost, nothing twice, and what failed is a dead letter, neither more nor less."""
    wait_until(idle(victim, "a", "b"), "what waited is handled", 30.0)
    letters = [row["body"] for row in victim.call("dead_letters", action="list")]
    failed = [f"{body['by']}/{body['n']}" for body in letters]
    assert len(failed) == len(set(failed)), "a message is twice in the dead letters"
    assert all(body["n"] % FAILS_EACH == 0 for body in letters)
    a, b = victim.ask("a", "told"), victim.ask("b", "told")
    seen = b["order"]
    assert sorted(seen) == a["seen"], "what a did is not what b was sent"
    assert a["total"] == b["total"] == sum(int(each.partition("/")[2]) for each in seen)
    assert not {each for each in seen if int(each.partition("/")[2]) % FAILS_EACH == 0}
    for by in range(SENDERS):
        handled = [each for each in seen if each.startswith(f"{by}/")]
        assert handled == sorted(handled, key=lambda each: int(each.partition("/")[2]))
    numbered = sorted([*seen, *failed], key=lambda each: int(each.partition("/")[2]))
    load.check_handled(numbered)


def rounds(victim: Victim, plans: list[str], record_property: Callable[[str, object], None]) -> None:
    load = Load(victim)
    arm(victim)
    start(victim)
    for plan in plans:
        kill_at(victim, load, plan)
        start(victim)
        check_chain(victim, load)
    assert load.count > len(plans) * 3, "void: there was no load"
    kept, lost = (
        victim.ask("b", "told"),
        victim.ask("m", "told"),
    )  # in memory: as the README says, a kill takes it
    assert lost["total"] < kept["total"]
    assert len(set(lost["order"])) == len(lost["order"])
    assert set(lost["order"]) <= set(kept["order"])
    record_property(FIGURE + "durable chain killed under load", {"nothing lost or doubled": len(plans)})
    victim.stop()


def test_a_durable_chain_killed_under_load_loses_and_doubles_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    victim = make_chain(tmp_path)
    try:
        rounds(victim, ["journal.sync:before 4 kill", "journal.sync:after 9 kill", ""], record_property)
    finally:
        victim.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_durable_chain_killed_at_many_points_loses_and_doubles_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    points = ("journal.write:before", "journal.write:after", "journal.sync:before", "journal.sync:after")
    plans = [f"{point} {number} kill" for number in (1, 2, 3, 5, 8, 13, 40) for point in points]
    victim = make_chain(tmp_path)
    try:
        rounds(victim, [*plans, *[""] * 20], record_property)
    finally:
        victim.close()


# -- upgrades ---------------------------------------------------------------------------------------------------

SCHEMAS = """
    from livetag import Module, Table, handles

    class Counter(Module):
        state_version = {version}
        seen: Table[str, {record}] = Table(version={version})

        def initial_state(self):
            return {{"v{version}": 0}}

        @handles
        def add(self, by: int, n: int) -> None:
            self.state["v{version}"] += n
            self.seen[f"{{by}}/{{n}}"] = {make}

        @handles
        def told(self) -> dict:
            return {{"version": {version}, "total": self.state["v{version}"], "seen": dict(self.seen.items())}}

    @Counter.migrates(1, 2)
    def up(old: dict) -> dict:
        return {{"v2": old["v1"]}}

    @Counter.migrates(2, 1)
    def down(new: dict) -> dict:
        return {{"v1": new["v2"]}}

    @Counter.migrates("seen", 1, 2)
    def widen(key: str, old: int) -> str:
        return str(old)

    @Counter.migrates("seen", 2, 1)
    def narrow(key: str, new: str) -> int:
        return int(new)
"""
CODE = {
    1: SCHEMAS.format(version=1, record="int", make="n"),
    2: SCHEMAS.format(version=2, record="str", make="str(n)"),
}


def on_disk(victim: Victim) -> tuple[int, int, Any]:
    """Of the dead host: the schema that the journal says, that of the state's row, and the state."""
    journal = Journal.open(victim.place.journal, time.time)
    try:
        row = journal.load_stored().modules["a"]
        said = fold(journal.records()).table["a"].state_version
        return said, row.state_version, msgspec.msgpack.decode(row.state)
    finally:
        journal.close()


def any_more_or_dead(load: Load, than: int, victim: Victim) -> bool:
    return load.count > than or victim.dead


def ends_or_comes(push: subprocess.Popen[str], chance: float) -> bool:
    """Some moment, drawn at each look; at the latest when the push has ended."""
    return push.poll() is not None or random.random() < chance  # noqa: S311  # no secret


def serves(victim: Victim, version: int) -> bool:
    return bool(victim.ask("a", "told")["version"] == version)


def upgrades(victim: Victim, plans: list[str], record_property: Callable[[str, object], None]) -> None:
    victim.calm()
    victim.start()
    victim.write("a", {"__init__.py": CODE[1], "module.toml": DURABLE})
    victim.release("a/v1.0.0")
    assert victim.push("main", "a/v1.0.0").returncode == 0
    victim.stop()
    load, ends = Load(victim), {"old": 0, "new": 0}
    arm(victim)
    start(victim)
    version = 1
    for minor, plan in enumerate(plans, 1):
        version = 3 - version
        victim.write("a", CODE[version])
        victim.release(f"a/v1.{minor}.0")
        victim.aim(plan if " " in plan else "")
        with load.runs():
            # An early sync may end it before: where each message has syncs of its own, five are less than three messages.
            wait_until(partial(any_more_or_dead, load, load.count + 3, victim), "there is load")
            push = victim.begin_push("main", f"a/v1.{minor}.0")
            if plan in {"random", "pushed"}:
                wait_until(partial(ends_or_comes, push, 0.005 if plan == "random" else 0), "a moment", 30.0)
                assert victim.host is not None
                victim.host.kill()
            wait_until(lambda: victim.dead, "the host dies", 30.0)
        push.communicate(timeout=30)
        victim.buried()
        said, there, state = on_disk(victim)
        assert (there, list(state)) == (said, [f"v{said}"]), (
            "a unit of another version than the decided one is on disk"
        )
        ends["new" if said == version else "old"] += 1
        start(victim)
        wait_until(partial(serves, victim, version), "the tag is live", 30.0)
        wait_until(idle(victim, "a"), "what waited is handled", 30.0)
        told = victim.ask("a", "told")
        assert told["total"] == sum(int(n) for n in told["seen"].values())
        assert {type(n) for n in told["seen"].values()} == {int if version == 1 else str}
        load.check_handled(sorted(told["seen"], key=lambda each: int(each.partition("/")[2])))
    record_property(FIGURE + "durable module killed while its schema changes", ends)
    victim.stop()


def test_a_kill_around_the_decision_leaves_a_state_of_the_version_that_was_decided(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    victim = Victim(tmp_path)
    try:
        upgrades(
            victim,
            ["switch.record:before 1 kill", "pushed"],
            record_property,
        )
    finally:
        victim.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_random_moments_of_upgrades_leave_a_state_of_the_version_that_was_decided(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    named = [f"{point} 1 kill" for point in ("switch.record:before", "switch.record:after")]
    counted = [f"journal.sync:{side} {n} kill" for n in (5, 20, 80, 300) for side in ("before", "after")]
    victim = Victim(tmp_path)
    try:
        upgrades(victim, [*named, *counted, *["random"] * 15], record_property)
    finally:
        victim.close()
