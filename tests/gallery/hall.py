"""A host with the good releases in service, under load, to which bad ones are pushed: nothing may come of them."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from orchestrator.upgrade.trial_child import children_of
from tests.gallery.kit import GOOD, GOOD_TAGS, TOLD, At, Case, files_of
from tests.stories.deployment import Deployment, Facts, deployed, wait_until
from tests.stories.footprint import Footprint, is_keeper
from tests.stories.numbered import Numbered, handled_in_order

NORTH_S, WEST_S = (
    0.02,
    0.05,
)  # between two messages of a sender outside the host; the clock inside gives 300 a second
SLOWEST_S = 30.0  # a push that is refused says so within this, on a busy machine too; the limits of the cases are far lower
THREADS_MAX = 8  # may come and go: executors, Git, callers
GOOD_VERSION = "1.0.0"
GOOD_MODULES = {tag.partition("/")[0] for tag in GOOD_TAGS}


class Hall:
    """One host for as many bad releases as there are: what one had left behind would be seen at the next."""

    def __init__(self, deployment: Deployment, temporary: Path) -> None:
        self.deployment = deployment
        self._temporary = temporary
        for path in files_of(GOOD):
            deployment.work.write(path.relative_to(GOOD).as_posix(), path.read_bytes())
        self.good = deployment.deploy(*GOOD_TAGS)
        assert deployment.host is not None
        self.pid = deployment.host.pid
        self.ticks = 0
        self.spoilt = False  # a case has failed: what comes next begins with another host
        self.beside: tuple[str, ...] = ()  # modules that somebody has added
        self.senders = (
            Numbered(deployment, "counter", "north", NORTH_S),
            Numbered(deployment, "till", "west", WEST_S),
        )
        self.check()
        self._threads = Footprint.of(deployment).threads

    def push(self, case: Case) -> tuple[str, subprocess.CompletedProcess[str]]:
        """Commit the release on the good one, tag and push it; the commit's id, and the push. Leaves the clone as it was."""
        work = self.deployment.work
        case.write(work)
        work.git("commit", "--quiet", "--allow-empty", "-m", case.heading)
        commit_id = work.head()
        for tag in case.tags:
            work.tag(tag)
        before, began = self.handled(), time.monotonic()
        with self._lingering() if case.at == "switch" else nullcontext():
            pushed = work.run("push", *case.options, "live", *case.tags, check=False)
            if case.outcome == "tried again":
                self._first_try(commit_id)
        work.git("tag", "-d", *case.tags)
        work.git("reset", "--hard", "--quiet", self.good)
        work.git("clean", "-fdxq")
        assert time.monotonic() - began < SLOWEST_S
        assert self.handled() > before, "void: no message was handled while it was pushed"
        return commit_id, pushed

    @contextmanager
    def _lingering(self) -> Iterator[None]:
        """Within the block a unit is under way at nearly every moment, so that messages wait when it ends: at a switch, too."""
        ended = threading.Event()

        def linger() -> None:
            while not ended.is_set():
                self.deployment.ask("counter", "linger")

        thread = threading.Thread(target=linger, name="lingering", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(SLOWEST_S)

    def handled(self) -> int:
        """How many messages the counter has handled."""
        return int(self.deployment.status()["modules"]["counter"]["mailbox"]["handled"])

    def judge(self, case: Case, commit_id: str, pushed: subprocess.CompletedProcess[str]) -> None:
        """See that it ended as its folder says: in words, step, tags, record and quarantine."""
        deployment = self.deployment
        text = "\n".join(line.removeprefix("remote: ").rstrip() for line in pushed.stderr.splitlines())
        assert pushed.returncode == (1 if case.fails else 0), text
        if case.outcome == "tried again":
            text = self._first_try(commit_id)
        else:
            assert came_to(text) == case.at, text
        for words in case.says:
            assert words in text, f"{words!r} is not in: {text}"
        there = set(case.tags) & set(deployment.tags())
        assert there == (set() if case.fails else set(case.tags))
        reasons = [
            each["reason"] for each in deployment.status()["quarantine"] if each["commit"] == commit_id
        ]
        recorded = self._recorded(commit_id)
        if case.quarantined:
            (record,) = recorded
            assert record["outcome"] == ("reverted" if case.outcome == "reverted" else "rolled_back")
            assert reasons == [record["reason"]] * len(case.tags)
            assert sorted(f"{each['module']}/v{each['to']}" for each in record["modules"]) == sorted(
                case.tags
            )
            assert record["reason"] in text, "the record says what the push said"
        else:
            assert reasons == []
            assert [each["outcome"] for each in recorded] == ["rolled_back"] * (case.outcome == "tried again")

    def _recorded(self, commit_id: str) -> list[Facts]:
        """The transactions of a commit."""
        history = self.deployment.history()
        return [txn for txn in history if commit_id in {change["commit"] for change in txn["modules"]}]

    def _first_try(self, commit_id: str) -> str:
        """Why it was undone."""
        wait_until(
            lambda: any(txn["outcome"] for txn in self._recorded(commit_id)), "it was tried once", SLOWEST_S
        )
        return str(self._recorded(commit_id)[0]["reason"])

    def tidy(self, case: Case) -> None:
        """Delete the tags that it has left: the next brings its own under the same names."""
        if not case.fails:
            done = self.deployment.push(*(f":{tag}" for tag in case.tags))
            assert done.returncode == 0, done.stderr

    def check(self) -> None:
        """The host lives, the old versions serve with their state, nothing was lost, doubled or reordered, nothing left."""
        deployment = self.deployment
        assert deployment.host is not None
        assert deployment.host.poll() is None, deployment.said()
        self.ticks += 1
        assert deployment.ask("counter", "tick") == self.ticks
        status = deployment.status()
        assert status["host"]["pid"] == self.pid
        modules = {name: row for name, row in status["modules"].items() if name in GOOD_MODULES}
        in_service = {name: (row["version"], row["commit"]) for name, row in modules.items()}
        assert in_service == dict.fromkeys(GOOD_MODULES, (GOOD_VERSION, self.good))
        assert not [name for name in status["modules"] if name not in (*GOOD_MODULES, *self.beside)]
        letters = deployment.call("dead_letters", action="list")
        assert [each for each in letters if each["module"] in GOOD_MODULES] == []
        assert status["transaction"] is None
        assert status["problem"] is None
        for sender in self.senders:
            sender.check()
        handled_in_order(deployment, "counter", "clock", deployment.call("state", name="clock")["sent"])
        self._nothing_left()

    def _nothing_left(self) -> None:
        """No trial, no process and no part of a refused release."""
        wait_until(lambda: not [*self._temporary.glob("livetag-trial-*")], "no trial is left")
        wait_until(lambda: not self._processes(), f"no process is left: {self._processes()}")
        leftovers = self.deployment.status()["leftovers"]
        assert leftovers == [], leftovers

    def _processes(self) -> list[str]:
        """Who was started by the host or by what it started, wherever it has gone since: all have its TMPDIR.

        But for its children that are of use to it: Git, and the one keeper that waits for the next release.
        """
        mark, found = os.fsencode(self._temporary), []
        for process in Path("/proc").iterdir():
            if process.name.isdecimal() and int(process.name) not in (self.pid, *self._waiting()):
                with suppress(OSError):
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if mark in (process / "environ").read_bytes() and not command.startswith("git "):
                        found.append(command)
        return found

    def _waiting(self) -> list[int]:
        """The keeper, a child of the host and without one, that waits for the next release."""
        return [pid for pid in children_of(self.pid) if not children_of(pid) and is_keeper(pid)][:1]

    def close(self) -> None:
        """End the senders and see that to the last message all is accounted for, and that the host stops."""
        for sender in self.senders:
            sender.close()
        last = self.deployment.ask("clock", "close")
        found = handled_in_order(self.deployment, "counter", "clock", last)
        accepted = {each.sender: each.accepted for each in self.senders if each.module == "counter"}
        assert {sender: n - 1 for sender, n in found["expected"].items()} == {"clock": last, **accepted}
        assert found["ticks"] == self.ticks
        (west,) = (each for each in self.senders if each.module == "till")
        found = handled_in_order(self.deployment, "till", west.sender, west.accepted)
        assert found["expected"] == {west.sender: west.accepted + 1}
        modules = self.deployment.status()["modules"]
        for name in GOOD_MODULES - {"clock"}:  # whose timer goes on
            box = modules[name]["mailbox"]
            assert (box["length"], box["accepted"]) == (0, box["handled"] + box["dead"]), name
        assert Footprint.of(self.deployment).threads <= self._threads + THREADS_MAX
        assert "Traceback" not in self.deployment.said(), self.deployment.said()
        assert self.deployment.stop() == 0, "what was pushed cannot keep the host from stopping"


def came_to(text: str) -> At:
    """The last step that a push has told of."""
    for step, words in reversed(TOLD.items()):
        if words in text:
            return step
    return "push" if "pre-receive hook declined" in text else "nothing"


@contextmanager
def hall(path: Path, livetag: str) -> Iterator[Hall]:
    """A host whose livetag.toml says that, with a folder for temporary files that nobody else uses."""
    temporary = path / "tmp"
    temporary.mkdir()
    with deployed(path, start=False) as deployment:
        deployment.env["TMPDIR"] = str(temporary)
        if livetag:
            deployment.place.config_file.write_text(livetag, encoding="utf-8")
        deployment.start()
        made = Hall(deployment, temporary)
        try:
            yield made
        finally:
            for sender in made.senders:
                sender.close()
        if not made.spoilt:
            made.close()
