"""The refs of the repository: tags that are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.control.doctor.findings import Case, Finding
from repo_store.errors import StoreError
from repo_store.refs import RefChange
from repo_store.release import TagRef
from repo_store.store import RepoStore


def tags(case: Case) -> Iterator[Finding]:
    """Whether it can be told of each release tag where it leads. One that was seen before is known from the journal."""
    path = case.deployment.store
    try:
        with RepoStore.open(path) as opened:
            refs = opened.refs()
            lost = [ref for ref in refs.values() if ref.lost]
            known = _known(opened, case, lost)
    except StoreError as error:
        yield Finding("tags", False, str(error), "See the check of the repository.")
        return
    for ref in lost:
        name, pin = ref.tag.name, known.get(ref.tag.name)
        where = path / ref.tag.ref
        if pin is None:
            todo = f"Remove it (rm {where}, if that file is there), and push {name} again from a clone that has it."
            yield Finding("tags", False, f"{name} is lost: {ref.lost}", todo)
        else:
            what = f"{name} is lost: {ref.lost}; it counts as it was last seen, at {pin[:12]}"
            todo = f"Have it written again: livetag doctor --repair; or push it: git push -f live {name}."
            yield Finding("tags", False, what, todo, _Restore(path, ref, pin))
    if not lost:
        yield Finding("tags", True, f"each of the {len(refs)} release tags can be read")


def _known(store: RepoStore, case: Case, lost: Sequence[TagRef]) -> dict[str, str]:
    """The lost tags whose object was seen before and is there: tag → that object."""
    pins = case.ledger.tags if case.ledger is not None else {}
    seen = {ref.tag.name: pins[ref.tag.name] for ref in lost if ref.tag.name in pins}
    whole = store.commits(pin.object_id for pin in seen.values())
    return {
        name: pin.object_id
        for name, pin in seen.items()
        if pin.commit_id is not None and whole.get(pin.object_id) == pin.commit_id
    }


class _Restore:
    """Writes one tag as it was last seen when called."""

    def __init__(self, store: Path, ref: TagRef, object_id: str) -> None:
        self._store, self._ref, self._object_id = store, ref, object_id

    def __call__(self) -> str:
        """Git refuses to change a ref that it cannot read, so its file goes first; it says nothing that could be lost."""
        (self._store / self._ref.tag.ref).unlink(missing_ok=True)
        with RepoStore.open(self._store) as opened:
            now = opened.refs().get(self._ref.tag.name)
            old = now.object_id if now is not None else None  # packed, say
            opened.update_refs([RefChange(self._ref.tag.ref, self._object_id, old)], "repair")
        return f"wrote {self._ref.tag.name} again as it was last seen, at {self._object_id[:12]}"
