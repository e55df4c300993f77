"""The bare repository: whole, with the history that the journal asks for, and holding what a way back needs."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hooks.install import HOOKS, MARK, HooksRefused, install
from orchestrator.control.doctor.findings import Case, Finding
from orchestrator.control.doctor.journal import ERRORS, read_ledger
from orchestrator.upgrade.book import deployments
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.needed import needed_commits
from repo_store.errors import StoreError
from repo_store.git import GitDoor
from repo_store.history import BRANCH, LIVE, History
from repo_store.refs import list_refs
from repo_store.store import RepoStore

FSCK_S = 300.0
CATCH_UP_S = 3.0  # of a host that runs, with what it has just recorded
LOOK_AGAIN_S = 0.1
_EXPECTS = re.compile(r"^if \[ ! -x (.+) \] \|\| \[ ! -f (.+) \]; then$", re.MULTILINE)


def store(case: Case) -> Iterator[Finding]:
    """Whether every object is there and what its name says."""
    path = case.deployment.store
    try:
        with RepoStore.open(path) as opened:
            opened.door.run("fsck", "--no-dangling", "--no-progress", "--no-reflogs", timeout_s=FSCK_S)
    except StoreError as error:
        todo = (
            f"See git --git-dir={path} fsck. Push the missing commits and tags again from a clone that has them; what is "
            "in service is loaded from stage/ and does not need them."
        )
        yield Finding("repository", False, str(error), todo)
    else:
        yield Finding("repository", True, "git fsck finds every object whole")


def history(case: Case) -> Iterator[Finding]:
    """Whether the branch `deployments` and refs/live/* are what the journal says."""
    ledger, path = case.ledger, case.deployment.store
    if ledger is None:
        return
    entries, live = deployments(ledger)
    wrong = _differs(path, ledger)
    deadline = time.monotonic() + CATCH_UP_S
    while wrong and case.host_runs and time.monotonic() < deadline:
        # It writes the history after the outcome is told, and both went on since the journal was read for this case.
        time.sleep(LOOK_AGAIN_S)
        with suppress(*ERRORS):  # a check of its own says so
            ledger = read_ledger(case.deployment.journal)
        wrong = _differs(path, ledger)
    if not wrong:
        yield Finding("history", True, f"{BRANCH} and {LIVE}* say what the journal says")
        return
    if case.host_runs:
        yield Finding(
            "history",
            False,
            "; ".join(wrong),
            "If it stays so after the host's next look: stop the host, and livetag doctor --repair.",
        )
        return

    def rebuild() -> str:
        with RepoStore.open(path) as opened:
            History(opened).rebuild(entries, live)
        return f"wrote {BRANCH} and {LIVE}* anew from the journal"

    yield Finding(
        "history", False, "; ".join(wrong), "Have it written anew: livetag doctor --repair.", rebuild
    )


def _differs(path: Path, ledger: Ledger) -> list[str]:
    """What of the history in Git is not what this ledger says."""
    try:
        with RepoStore.open(path) as opened:
            return History(opened).differs(*deployments(ledger))
    except StoreError as error:
        return [str(error)]


def kept(case: Case) -> Iterator[Finding]:
    """Whether every commit that a start or a way back needs is there, and held against `git gc`."""
    ledger, path = case.ledger, case.deployment.store
    if ledger is None:
        return
    wanted = sorted(needed_commits(ledger))
    try:
        with RepoStore.open(path) as opened:
            infos = opened.door.infos(wanted)
            there = [commit for commit, info in zip(wanted, infos, strict=True) if info is not None]
            loose = sorted(set(there) - opened.kept())
    except StoreError as error:
        yield Finding("kept commits", False, str(error), "See the check of the repository.")
        return
    lost = sorted(set(wanted) - set(there))
    if lost:
        what = f"{_some(lost)} are not in the repository, and a start or a rollback may need them"
        yield Finding("kept commits", False, what, "Push them again from a clone that has them.")

    def hold() -> str:
        with RepoStore.open(path) as opened:
            opened.keep(*loose)
        return f"held {_some(loose)} against git gc"

    if loose:
        what = f"{_some(loose)} are not held against git gc, and a rollback may need them"
        yield Finding("kept commits", False, what, "Hold them: livetag doctor --repair.", hold)
    if not lost and not loose:
        yield Finding("kept commits", True, f"{len(wanted)} commits are there and held against git gc")


def _some(commits: Sequence[str]) -> str:
    shown = ", ".join(commit[:12] for commit in commits[:3])
    return f"commits {shown}" + (f" and {len(commits) - 3} more" if len(commits) > 3 else "")


def hooks(case: Case) -> Iterator[Finding]:
    """Whether Git runs our hooks at a push, and they find their interpreter."""
    path = case.deployment.store
    problems = [problem for name in HOOKS if (problem := _hook_problem(path / "hooks" / name))]
    problems += _setting_problems(path)
    if not problems:
        yield Finding("hooks", True, "Git runs livetag's hooks at a push")
        return
    foreign = any("is not livetag's" in problem for problem in problems)
    todo = (
        "Move it away, then: livetag doctor --repair."
        if foreign
        else "Write them anew: livetag doctor --repair."
    )
    yield Finding("hooks", False, "; ".join(problems), todo, None if foreign else _installer(path))


def _installer(path: Path) -> Callable[[], str]:
    def work() -> str:
        try:
            install(path)
        except HooksRefused as error:
            return str(error)
        return f"wrote the hooks of {path} anew"

    return work


def _hook_problem(path: Path) -> str | None:
    if not path.is_file():
        return f"{path} is missing: a push is not judged and nobody waits for its outcome"
    text = path.read_text(errors="replace")
    if MARK not in text:
        return f"{path} is not livetag's"
    if not path.stat().st_mode & 0o100:
        return f"{path} is not executable, so Git passes it over"
    found = _EXPECTS.search(text)
    wanted = [word for group in found.groups() for word in shlex.split(group)] if found else []
    gone = [word for word in wanted if not Path(word).exists()]
    if gone or not wanted:
        return (
            f"{path} names {gone[0] if gone else 'no interpreter'}, which is not there: every push is refused"
        )
    return None


def _setting_problems(path: Path) -> list[str]:
    wanted = {"core.hookspath": "hooks", "receive.procreceiverefs": "refs/tags"}
    try:
        with GitDoor(path) as door:
            rows = (
                door.run("config", "--file", str(path / "config"), "--list", "-z")
                .decode("utf-8", "replace")
                .split("\0")
            )
            list_refs(door, "refs/tags")
    except StoreError as error:
        return [str(error)]
    found = dict(row.partition("\n")[::2] for row in rows if row)
    return [
        f"{key} is {found.get(key, 'not set')}, not {value}"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
