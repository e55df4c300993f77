"""A release that may come into service, with all that is known of it before it is loaded (DESIGN §4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.runtime.description import Description
from orchestrator.upgrade.desired import Wish
from orchestrator.upgrade.errors import Fault
from orchestrator.upgrade.records import Change, Entry
from repo_store.manifest import ModuleManifest
from repo_store.release import Release


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a release cannot be used, and whose fault that is; `paste`: source that would mend it.

    `waits`: it is nobody's fault, and the release can be used once that is put right: it is not tried, and not counted.
    """

    reason: str
    fault: Fault
    paste: str = ""
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A wish with what its release turned out to be; `problem` if it could not be staged."""

    wish: Wish
    release: Release | None = None
    manifest: ModuleManifest = ModuleManifest()  # noqa: RUF009  # a frozen value
    description: Description | None = None
    folder: Path | None = None  # where it is staged
    problem: Problem | None = None

    def entry(self) -> Entry:
        """The row of the release table that it would be."""
        wish, release = self.wish, self.release
        return Entry(
            name=wish.name,
            package=wish.package,
            version=release.version if release is not None else str(wish.ref.tag.version),
            tag=wish.ref.tag.name,
            commit_id=wish.commit_id,
            tree_id=release.tree_id if release is not None else "",
            tag_object_id=wish.ref.object_id,
            config=dict(wish.config),
            also=wish.also,
            enabled=wish.enabled,
            state_version=self.description.state_version if self.description is not None else 1,
        )


def candidate_of(change: Change, candidates: Mapping[str, Candidate]) -> Candidate | None:
    """The candidate with the release that the change leads to.

    None: what a command changes keeps its release, and the candidate is another one, which waits or is held.
    """
    found, after = candidates.get(change.name), change.after
    if (
        found is None
        or after is None
        or (found.wish.package, found.wish.commit_id) == (after.package, after.commit_id)
    ):
        return found
    return None
