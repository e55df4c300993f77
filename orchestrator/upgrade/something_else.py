"""Whether something else is asked for than what a transaction under way brings: then it need not wait any longer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from orchestrator.upgrade import words
from orchestrator.upgrade.lookout import Lookout
from orchestrator.upgrade.plan import Group
from orchestrator.upgrade.repository import Repository
from repo_store.errors import StoreError
from repo_store.release import APP, RefMap


async def something_else(
    lookout: Lookout, repository: Repository, group: Group, refs: RefMap, overtaken: Callable[[], bool]
) -> str:
    """Return once the group is no longer asked for as it was, and say why. `refs`: the tags when it was planned.

    It looks when a look is asked for. A tag of another package is no reason: it waits its turn.
    """
    packages = {entry.package for c in group.changes for entry in (c.before, c.after) if entry is not None}
    planned = _of(packages, refs)
    while True:
        await lookout.asked_again()
        if overtaken():
            return "somebody has said something else meanwhile, and the plan is made anew"
        with suppress(StoreError):  # the next look tells of that
            if _of(packages, await repository.refs()) != planned:
                return f"tags of {words.listed(sorted(packages))} have moved meanwhile, and the plan is made anew"


def _of(packages: Collection[str], refs: RefMap) -> Mapping[str, tuple[str, str | None]]:
    """The tags of these packages and of the composition, and what each points at."""
    return {
        name: (ref.object_id, ref.commit_id)
        for name, ref in refs.items()
        if ref.tag.package in packages or ref.tag.package == APP
    }
