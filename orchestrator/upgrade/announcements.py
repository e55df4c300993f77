"""What other modules are told of a change, on `livetag.modules.<name>` after COMMITTED (DESIGN §4). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.upgrade.records import Change, Entry


def announcements(change: Change) -> Iterator[Mapping[str, object]]:
    """The events of one change: loaded, swapped, removed, disabled, enabled, bound, unbound, each as its body."""
    before, after = change.before, change.after

    def said(kind: str, **more: object) -> Mapping[str, object]:
        return {"module": change.name, "change": kind, **_versions(before, after), **more}

    if before is None:
        yield said("loaded")
    elif after is None:
        yield said("removed")
    elif change.brings_code:
        yield said("swapped")
    if after is None:
        return
    was_enabled = before.enabled if before is not None else True
    if was_enabled != after.enabled:
        yield said("enabled" if after.enabled else "disabled")
    had = before.also if before is not None else ()
    if new := [name for name in after.also if name not in had]:
        yield said("bound", names=new)
    if gone := [name for name in had if name not in after.also]:
        yield said("unbound", names=gone)


def _versions(before: Entry | None, after: Entry | None) -> Mapping[str, object]:
    return {
        "from": before.version if before is not None else None,
        "to": after.version if after is not None else None,
    }
