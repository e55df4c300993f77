"""What a look could not read of the repository, as words: it concerns some tags, and the others go on. Pure."""

from __future__ import annotations

from orchestrator.upgrade.planner import Outlook


def damage(outlook: Outlook) -> str:
    """The tags that are lost and the releases that cannot be read; empty if there are none."""
    lost = sorted(f"{name} cannot be read: {ref.lost}" for name, ref in outlook.refs.items() if ref.lost)
    if lost:
        lost.append("A tag that is lost counts as it was last seen; livetag doctor says what to do")
    found = outlook.candidates.values()
    unread = [c.problem.reason for c in found if c.problem is not None and c.problem.waits]
    return ". ".join(dict.fromkeys((*lost, *unread)))
