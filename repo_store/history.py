"""What was deployed, as Git history: the branch `deployments` and one ref a module (DESIGN §7).

It is derived from the journal and may be thrown away: the same entries give the same commit ids, at any time
and on any machine, because nothing in a commit comes from anywhere but its entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from repo_store.errors import RefChanged, StoreError
from repo_store.failpoints import step
from repo_store.refs import RefChange, list_refs
from repo_store.store import RepoStore

BRANCH = "refs/heads/deployments"
LIVE = "refs/live/"
ATTEMPTS_MAX = 10
SUBJECT_MODULES_MAX = 4
_WHO = "livetag <livetag@localhost>"
_NONE = "none"


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """What happened to one module; versions without v, None: it was not there, or is no longer.

    `altered`: what became of it beside its version, as words: `disabled`, `bound to total`.
    """

    module: str
    from_version: str | None
    to_version: str | None
    commit_id: str | None
    altered: str = ""


@dataclass(frozen=True, slots=True)
class DeploymentEntry:
    """One ended transaction.

    `seq` is the number of its journal record, `at` that record's time (unix seconds).
    """

    seq: int
    at: float
    modules: tuple[ModuleChange, ...]
    outcome: str
    reason: str
    pause_us: float
    held_messages: int
    predicted_us: float | None = None


class History:
    """Writes the history of one store. What it cannot write now it writes when it is called again."""

    def __init__(self, store: RepoStore) -> None:
        self._store = store

    def record(self, entries: Sequence[DeploymentEntry], live: Mapping[str, str]) -> int:
        """Append the entries that are not there yet and set refs/live/<module>; give how many were appended.

        `live` is everything in service: module → commit id; refs of other modules are removed. All refs
        change in one compare-and-swap transaction. After a journal that was begun anew the branch goes on
        above what the old one left in it. Raises StoreError if the branch ends in a commit that is not ours.
        """
        for _ in range(ATTEMPTS_MAX):
            tip = old = list_refs(self._store.door, BRANCH).get(BRANCH)
            if tip is not None and self._store.door.infos([tip])[0] is None:
                tip = None  # its object was lost: Git refuses every push until the branch points at one that is there
            last = self._last_of_ours(tip, entries)
            new = [entry for entry in sorted(entries, key=_seq) if entry.seq > last]
            try:
                self._write(tip, old, new, live)
            except RefChanged:
                continue
            return len(new)
        raise RefChanged(
            f"{BRANCH} was moved by others {ATTEMPTS_MAX} times in a row; it is tried again later."
        )

    def rebuild(self, entries: Sequence[DeploymentEntry], live: Mapping[str, str]) -> None:
        """Write the whole branch anew from all entries, whatever it holds now, and set refs/live/<module>.

        The ids are those that `record` gave, entry by entry. Raises RefChanged if somebody moves a ref
        meanwhile.
        """
        old = list_refs(self._store.door, BRANCH).get(BRANCH)
        self._write(None, old, sorted(entries, key=_seq), live)

    def differs(self, entries: Sequence[DeploymentEntry], live: Mapping[str, str]) -> list[str]:
        """What is not as `record` would have left it, as phrases; empty if nothing is. Changes nothing."""
        wrong = []
        tip = list_refs(self._store.door, BRANCH).get(BRANCH)
        if tip is None:
            wrong = [f"{BRANCH} is missing"] if entries else []
        elif self._told(tip, len(entries)) != [message(entry).strip() for entry in sorted(entries, key=_seq)]:
            wrong = [f"{BRANCH} does not tell the {len(entries)} transactions of the journal"]
        changes = self._live_changes(live)
        return [*wrong, *(f"{change.ref} is not {change.new or 'absent'}" for change in changes)]

    def _told(self, tip: str, number: int) -> list[str]:
        """The messages of the newest commits of the branch, oldest first."""
        if number == 0:
            return []
        rows = self._store.door.run(
            "log", "--first-parent", f"--max-count={number}", "--format=%B%x00", "--end-of-options", tip
        )
        texts = rows.decode("utf-8", "replace").split("\0")
        return [text.strip() for text in texts if text.strip()][::-1]

    def last_seq(self) -> int:
        """Give the journal number of the newest recorded entry; 0 if there is none."""
        return self._seq_of(list_refs(self._store.door, BRANCH).get(BRANCH))

    def _write(
        self, parent: str | None, old: str | None, new: Iterable[DeploymentEntry], live: Mapping[str, str]
    ) -> None:
        tip = parent
        for entry in new:
            tip = self._commit(entry, tip)
        changes = [] if tip == old else [RefChange(BRANCH, tip, old)]
        self._store.update_refs([*changes, *self._live_changes(live)], "deployments", reflog=True)

    def _live_changes(self, live: Mapping[str, str]) -> list[RefChange]:
        now = list_refs(self._store.door, LIVE)
        commit_ids = sorted(set(live.values()))
        infos = dict(zip(commit_ids, self._store.door.infos(commit_ids), strict=True))
        # One commit that was lost must not stop the history of all others.
        wanted = {LIVE + module: each for module, each in live.items() if infos[each] is not None}
        return [
            RefChange(ref, wanted.get(ref), now.get(ref))
            for ref in sorted({*now, *wanted})
            if wanted.get(ref) != now.get(ref)
        ]

    def _commit(self, entry: DeploymentEntry, parent: str | None) -> str:
        when = f"{_WHO} {int(entry.at)} +0000"
        lines = [
            f"tree {self._object('tree', b'')}",
            *([] if parent is None else [f"parent {parent}"]),
            f"author {when}",
            f"committer {when}",
            "",
            message(entry),
        ]
        with step("history.object"):
            return self._object("commit", "\n".join(lines).encode())

    def _object(self, kind: str, content: bytes) -> str:
        return (
            self._store.door.run("hash-object", "-t", kind, "-w", "--stdin", stdin=content).decode().strip()
        )

    def _last_of_ours(self, tip: str | None, entries: Sequence[DeploymentEntry]) -> int:
        """Give the number of the newest of these entries that the branch holds; 0 if it holds none of them.

        A number alone is not enough: a journal that was lost and begun anew counts from 1 again.
        """
        last = self._seq_of(tip)
        if tip is None or not entries:
            return last
        ours = {(entry.seq, int(entry.at)) for entry in entries}
        form = "--format=%at %(trailers:key=Journal-Seq,valueonly,separator=%x2C)"
        for depth in ("--max-count=1", "--first-parent"):  # nearly always the tip is ours
            rows = self._store.door.run("log", depth, form, "--end-of-options", tip).decode().splitlines()
            for row in rows:
                at, _, seq = row.partition(" ")
                if seq.isdecimal() and (int(seq), int(at)) in ours:
                    return int(seq)
        return 0

    def _seq_of(self, commit_id: str | None) -> int:
        if commit_id is None:
            return 0
        text = self._store.read_object(commit_id, "commit").decode("utf-8", "replace")
        found = re.findall(r"^Journal-Seq: (\d+)$", text.rstrip("\n").rpartition("\n\n")[2], re.MULTILINE)
        if not found:
            raise StoreError(
                f"{BRANCH} ends in commit {commit_id[:12]}, which livetag did not write; the history is not "
                f"continued. Stop the host and have it written anew from the journal: livetag doctor --repair."
            )
        return int(found[-1])


def message(entry: DeploymentEntry) -> str:
    """Give the commit message of an entry: a subject to read in `git log --oneline`, the reason, and the trailers."""
    trailers: list[tuple[str, str]] = []
    for change in entry.modules:
        trailers += [
            ("Module", change.module),
            ("From", change.from_version or _NONE),
            ("To", change.to_version or _NONE),
            ("Release-Commit", change.commit_id or _NONE),
        ]
    reason = _one_line(entry.reason)
    trailers += [
        ("Outcome", entry.outcome),
        *([("Reason", reason)] if reason else []),
        ("Pause-Us", str(round(entry.pause_us))),
        *([] if entry.predicted_us is None else [("Predicted-Us", str(round(entry.predicted_us)))]),
        ("Held-Messages", str(entry.held_messages)),
        ("Journal-Seq", str(entry.seq)),
    ]
    rows = [f"{name}: {_one_line(value)}" for name, value in trailers]
    body = [_subject(entry), "", *([reason, ""] if reason else []), *rows, ""]
    return "\n".join(body)


def _subject(entry: DeploymentEntry) -> str:
    shown = [_step(change) for change in entry.modules[:SUBJECT_MODULES_MAX]]
    more = len(entry.modules) - len(shown)
    what = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
    return f"{what or 'nothing'}: {entry.outcome.replace('_', ' ')}"


def _step(change: ModuleChange) -> str:
    if change.from_version is None:
        return f"{change.module} {change.to_version or _NONE} (new)"
    if change.to_version is None:
        return f"{change.module} {change.from_version} (removed)"
    altered = _one_line(change.altered)
    if altered and change.from_version == change.to_version:
        return f"{change.module} {change.to_version} {altered}"
    more = f" ({altered})" if altered else ""
    return f"{change.module} {change.from_version} → {change.to_version}{more}"


def _one_line(text: str) -> str:
    # A line end in a reason would let an author's error text write trailers of its own.
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:2000]


def _seq(entry: DeploymentEntry) -> int:
    return entry.seq
