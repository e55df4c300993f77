"""One deployment, and what persons, power cuts and schedulers do to it at random; the model says what should be so."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.control.client import ControlError
from orchestrator.control.doctor.journal import read_ledger
from orchestrator.control.selftest.checks import derived_equals_journal
from tests.crash.model import MODULES, Model, Told
from tests.crash.notes import code
from tests.crash.victim import Victim
from tests.stories.deployment import wait_until

REST_S = 40.0
SENT_MAX = 25
modules = st.sampled_from(MODULES)
kinds = st.sampled_from(["good", "good", "broken"])
delays_s = st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6])


class Deaths(RuleBasedStateMachine):
    """One deployment; a rule is something that a person, a power cut or a scheduler does."""

    base: Victim

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.host = Victim(Path(self.folder.name), self.base)
        self.host.calm()
        self.model = Model(kinds={1: "good"}, tags={f"{module}/v1.1.0": 1 for module in MODULES})
        self.model.look()
        for told in self.model.history:  # they came by one push of one commit
            told.before = None
        self.commits = {1: self.host.git("rev-parse", "counter/v1.1.0^{commit}")}
        self.sent = 0
        self.host.start()

    def teardown(self) -> None:
        self.host.close()
        self.folder.cleanup()

    @property
    def up(self) -> bool:
        return self.host.host is not None

    # -- tags ------------------------------------------------------------------------------------------------------

    def _commit(self, module: str, kind: str) -> int:
        number = len(self.model.kinds) + 1
        self.model.kinds[number] = kind
        self.host.write(module, code(self.host, number, kind))
        self.commits[number] = self.host.work.commit(f"release {number}")
        return number

    def _pushed(self, module: str, tag: str, number: int) -> bool:
        """What the model makes of a push; returns whether it succeeds. A tag that was refused is what it was before."""
        before = self.model.tags.get(tag)
        self.model.tags[tag] = number
        if not self.up or self.model.held:
            return True
        self.model.look()
        if (module, number) not in self.model.quarantine:
            return True
        if before is None:
            del self.model.tags[tag]
        else:
            self.model.tags[tag] = before
        self.model.look()
        return False

    @rule(module=modules, kind=kinds)
    def push(self, module: str, kind: str) -> None:
        number = self._commit(module, kind)
        tag = f"{module}/v1.{number}.0"
        self.host.work.tag(tag)
        done = self.host.push("main", tag)
        assert (done.returncode == 0) == self._pushed(module, tag, number), done.stderr

    @precondition(lambda self: all(self.model.newest_tag(module) for module in MODULES))
    @rule(module=modules, kind=kinds)
    def move(self, module: str, kind: str) -> None:
        tag = self.model.newest_tag(module)
        assert tag is not None
        number = self._commit(module, kind)
        self.host.work.tag(tag, force=True)
        done = self.host.push("main", tag, force=True)
        assert (done.returncode == 0) == self._pushed(module, tag, number), done.stderr

    @precondition(lambda self: all(self.model.newest_tag(module) for module in MODULES))
    @rule(module=modules)
    def delete(self, module: str) -> None:
        tag = self.model.newest_tag(module)
        assert tag is not None
        done = self.host.push("--delete", tag)
        assert done.returncode == 0, done.stderr
        del self.model.tags[tag]
        if self.up:
            self.model.look()

    # -- messages --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.up)
    @rule(module=modules, many=st.integers(1, SENT_MAX))
    def send(self, module: str, many: int) -> None:
        for _ in range(many):
            self.host.send(module, "note", n=self.sent)
            self.model.notes[module].append(self.sent)
            self.sent += 1

    @precondition(lambda self: self.up)
    @rule(module=modules)
    def ask(self, module: str) -> None:
        assert self.host.ask(module, "note", n=self.sent) == self.model.live[module][1]
        self.model.notes[module].append(self.sent)
        self.sent += 1

    @precondition(lambda self: self.up)
    @rule(module=modules)
    def drop(self, module: str) -> None:
        self.host.send(module, "drop")
        self.model.dropped[module] += 1

    # -- commands --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.up and not self.model.held)
    @rule()
    def hold(self) -> None:
        self.host.call("hold", who="ada", reason="freeze")
        self.model.held = True

    @precondition(lambda self: self.up and self.model.held)
    @rule()
    def unhold(self) -> None:
        self.host.call("unhold", who="ada")
        self.model.held = False
        self.model.look()

    @precondition(lambda self: self.up and not self.model.held and self.model.last_change())
    @rule()
    def roll_back(self) -> None:
        last = self.model.last_change()
        assert last is not None
        done = self.host.livetag("rollback", "--reason", "by mistake")
        if last.before is None:
            assert done.returncode == 1, done.stdout
            assert "there is no version before it" in done.stderr
            return
        assert done.returncode == 0, done.stdout + done.stderr
        (tag,) = set(self.host.tags()) - self.model.tags.keys()
        assert self.host.git("rev-parse", f"{tag}^{{commit}}") == self.commits[last.before]
        self.model.tags[tag] = last.before
        self.model.quarantine.discard((last.module, last.before))
        self.model.quarantine.add((last.module, last.after))
        last.outcome = "reverted"
        self.model.look()
        self.model.history[-1].way_back = True

    @precondition(lambda self: self.up and self._retriable())
    @rule()
    def retry(self) -> None:
        module, tag, number = self._retriable()[0]
        done = self.host.livetag("retry", tag)
        self.model.quarantine.discard((module, number))
        self.model.look()
        refused = (module, number) in self.model.quarantine
        assert done.returncode == (1 if refused else 0), done.stdout + done.stderr

    def _retriable(self) -> list[tuple[str, str, int]]:
        numbers = {commit: number for number, commit in self.commits.items()}
        found = []
        for row in self.host.status()["quarantine"]:
            number, tag = numbers[row["commit"]], row["tag"]
            if self.model.kinds[number] != "lethal" and self.model.tags.get(tag) in {None, number}:
                found.append((row["module"], tag, number))
        return found if len({tag for _, tag, _ in found}) == len(found) else []

    # -- ends and starts -------------------------------------------------------------------------------------------

    @precondition(lambda self: self.up)
    @rule()
    def stop(self) -> None:
        assert self.host.stop() == 0

    @precondition(lambda self: self.up)
    @rule()
    def kill(self) -> None:
        self.host.kill()
        self.model.died()

    @precondition(lambda self: not self.up)
    @rule()
    def start(self) -> None:
        self.host.start()
        self.model.look()

    @precondition(lambda self: self.up)
    @rule(many=st.integers(1, SENT_MAX), module=modules)
    def restart(self, many: int, module: str) -> None:
        """With messages that may still wait."""
        self.send(module, many)
        assert self.host.stop() == 0
        self.start()

    @precondition(lambda self: self.up)
    @rule(many=st.integers(1, SENT_MAX), module=modules)
    def kill_after_messages(self, many: int, module: str) -> None:
        self.send(module, many)
        self.kill()
        self.start()

    @precondition(lambda self: self.up and not self.model.held)
    @rule(module=modules, delay_s=delays_s)
    def kill_in_a_push(self, module: str, delay_s: float) -> None:
        """All old or all new; the push is not lied to, and what it asked for is so after the start."""
        number = self._commit(module, "good")
        tag = f"{module}/v1.{number}.0"
        self.host.work.tag(tag)
        push = self.host.begin_push("main", tag)
        time.sleep(delay_s)
        self.host.kill()
        out, _ = push.communicate(timeout=REST_S)
        assert push.returncode == 0, out
        self.model.died()
        self.host.start()
        self.model.tags[tag] = number
        before = self.model.live[module][1]
        self.model.look()
        self._at_rest()
        if (before, number, "rolled_back") in self._told(module):
            self.model.history.insert(-1, Told(module, before, number, "rolled_back"))

    @precondition(lambda self: self.up and not self.model.held)
    @rule(module=modules, delay_s=delays_s)
    def pause_in_a_push(self, module: str, delay_s: float) -> None:
        """The whole host stands still for a moment: late, not wrong. An upgrade that it made too late is tried again."""
        number = self._commit(module, "good")
        tag = f"{module}/v1.{number}.0"
        self.host.work.tag(tag)
        push = self.host.begin_push("main", tag)
        time.sleep(delay_s)
        assert self.host.host is not None
        self.host.host.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        self.host.host.send_signal(signal.SIGCONT)
        out, _ = push.communicate(timeout=REST_S)
        assert push.returncode == 0, out
        self.model.tags[tag] = number
        before = self.model.live[module][1]
        self.model.look()
        self._at_rest()
        tries = [outcome for _, _, outcome in self._told(module)][len(list(self.model.told(module))) - 1 :]
        assert tries[-1] == "committed"
        for _ in tries[:-1]:
            self.model.history.insert(-1, Told(module, before, number, "rolled_back"))

    @precondition(lambda self: self.up and not self.model.held)
    @rule(module=modules)
    def push_what_kills_the_host(self, module: str) -> None:
        """Twice, and then never again: the second death puts it in quarantine, and what served before serves."""
        number = self._commit(module, "lethal")
        tag = f"{module}/v1.{number}.0"
        self.host.work.tag(tag)
        done = self.host.push("main", tag)
        assert done.returncode == 0, done.stderr  # the tag stays: nothing is known of the outcome
        self._dies()
        self.host.host = self.host.spawn()
        self._dies()
        before = self.model.live[module][1]
        self.model.tags[tag] = number
        self.model.quarantine.add((module, number))
        self.model.history += [Told(module, before, number, "rolled_back")] * 2
        self.model.died()
        self.start()

    def _dies(self) -> None:
        wait_until(lambda: self.host.dead, "the release ends the host", REST_S)
        self.host.buried()

    # -- what is so ------------------------------------------------------------------------------------------------

    def _told(self, module: str) -> list[tuple[int | None, int, str]]:
        """The history of one module as the host tells it."""
        numbers = {commit: number for number, commit in self.commits.items()}
        rows: list[tuple[int | None, int, str]] = []
        served: int | None = None
        for row in reversed(self.host.history()):
            for change in row["modules"]:
                if change["module"] == module:
                    after = numbers[change["commit"]]
                    rows.append((served, after, row["outcome"]))
                    served = after if row["outcome"] in {"committed", "reverted", "unchanged"} else served
        return rows

    def _at_rest(self) -> None:
        """Wait until nothing is under way and Git has been told; a start that has lasted is held against nobody."""

        def rests() -> bool:
            try:
                status = self.host.status()
            except ControlError:
                return False
            busy = status["transaction"] is not None or status["problem"] is not None
            waits = any(row["mailbox"]["length"] for row in status["modules"].values())
            return not busy and not waits and derived_equals_journal(self.host)

        wait_until(rests, "the host comes to rest", REST_S)
        wait_until(
            lambda: not read_ledger(self.host.place.journal).starts.settling, "the start has lasted", REST_S
        )

    @invariant()
    def the_host_is_what_the_model_says(self) -> None:
        if not self.up:
            return
        model = self.model
        wait_until(
            lambda: self._shown() == self._expected(), f"{self._expected()}, not {self._shown()}", 20.0
        )
        self._at_rest()
        assert self._shown() == self._expected()
        status: dict[str, Any] = self.host.status()
        assert set(self.host.tags()) == set(model.tags)
        for module in MODULES:
            told = self.host.ask(module, "told")
            assert told == {"number": model.live[module][1], "notes": model.notes[module]}, module
        for module, row in self.host.status()["modules"].items():
            box = row["mailbox"]
            assert box["accepted"] == box["handled"] + box["dead"], (module, box)
        assert status["dead_letters"] == sum(model.dropped.values())

    def _shown(self) -> dict[str, object]:
        """What serves, who is blamed, and what was done, as the host says."""
        numbers = {commit: number for number, commit in self.commits.items()}
        status = self.host.status()
        return {
            "table": {name: (row["tag"], numbers[row["commit"]]) for name, row in status["modules"].items()},
            "quarantine": {(row["module"], numbers[row["commit"]]) for row in status["quarantine"]},
            "history": {module: self._told(module) for module in MODULES},
        }

    def _expected(self) -> dict[str, object]:
        return {
            "table": self.model.live,
            "quarantine": self.model.quarantine,
            "history": {module: list(self.model.told(module)) for module in MODULES},
        }
