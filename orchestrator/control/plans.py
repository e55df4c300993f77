"""`plan` over the control socket, and `git push -o plan`: what would be done, shown and not done (DESIGN §9)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from orchestrator.control import module_facts, plan_facts
from orchestrator.control.plan_facts import Said
from orchestrator.control.requests import read
from orchestrator.control.server import Emit
from orchestrator.control.wire import Refused
from orchestrator.runtime.application import Application
from orchestrator.upgrade.lookahead import Foresight, looking_ahead, refs_with
from orchestrator.upgrade.planner import Outlook
from orchestrator.upgrade.preview import Forecast
from orchestrator.upgrade.rollback import Rollback
from orchestrator.upgrade.upgrader import Upgrader
from orchestrator.upgrade.verdict import View, verdict
from repo_store.manifest import HostConfig
from repo_store.overlay import git_directory
from repo_store.release import RefMap, TagRef, parse_tag


class _Plan(msgspec.Struct):
    tag: str | None = None
    tags: list[str] = []
    repo: str | None = None
    trial: bool = True


class Plans:
    """Makes plans of what is pushed, of what a push would bring, and of what a clone has. Changes nothing."""

    def __init__(self, app: Application, upgrader: Upgrader, config: HostConfig) -> None:
        self._upgrader = upgrader
        self._prereleases = config.host.prereleases
        self._foresight = Foresight(
            app, upgrader.planner, upgrader.kept, config.trial, shadows=config.host.shadow
        )
        self._one = asyncio.Lock()  # a plan starts processes: one after the other, however many ask

    async def plan(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Plan)
        tags = [asked.tag] if asked.tag is not None else asked.tags
        for tag in tags:
            check_tag(tag)
        clone = readable(asked.repo) if asked.repo is not None else None
        if clone is not None and not tags:
            raise Refused("--repo needs a TAG that is there: livetag plan --repo PATH TAG.")
        refs = await self._upgrader.repository.refs()
        async with self._one, looking_ahead(self._upgrader.repository, clone) as ahead:
            if clone is not None:
                new = await refs_with(refs, ahead, clone, tags)
            else:
                new = refs
                _pushed(tags, refs)
            outlook, forecasts = await self._foresight.look(
                ahead, new, self._upgrader.book.ledger, tags, trial=asked.trial
            )
        said = [
            replace(self._said(tag, outlook, forecasts), pushed=refs.get(tag) == new[tag]) for tag in tags
        ]
        return plan_facts.document(forecasts, said, module_facts.drifts(outlook.overruled))

    async def of_push(self, changes: Mapping[str, str | None]) -> object:
        """What a push that makes tags point at these objects would do. Nothing is moved."""
        upgrader = self._upgrader
        refs = await upgrader.repository.refs_after(changes)
        async with self._one, looking_ahead(upgrader.repository) as ahead:
            outlook, forecasts = await self._foresight.look(ahead, refs, upgrader.book.ledger, list(changes))
        shown: set[int] = set()
        rows = []
        for tag in changes:
            mine = [f for f in forecasts if tag in f.group.tags]
            text = self._said(tag, outlook, forecasts).text
            if mine and all(id(f) in shown for f in mine):
                text = f"in one transaction with {' '.join(t for t in changes if t != tag and t in mine[0].group.tags)}"
            lines = [line for f in mine if id(f) not in shown for line in plan_facts.lines(f)]
            shown.update(id(f) for f in mine)
            rows.append({"tag": tag, "verdict": "plan", "text": "\n".join([text, *lines])})
        over = [f"drift   {line}" for line in module_facts.ending(outlook.overruled)]
        if rows and over:
            rows[0]["text"] = "\n".join([rows[0]["text"], *over])
        return {"tags": rows}

    async def of_rollback(self, rollback: Rollback) -> object:
        """What a rollback by tags would do, as a plan: state steps, what is lost, the pause to expect. Nothing is moved."""
        upgrader = self._upgrader
        ledger = upgrader.book.ledger
        quarantine = {key: held for key, held in ledger.quarantine.items() if key not in rollback.lifted}
        tags = {step.tag.name: TagRef(step.tag, step.commit_id, step.commit_id) for step in rollback.steps}
        refs = {**await upgrader.repository.refs(), **tags}
        async with self._one, looking_ahead(upgrader.repository) as ahead:
            lifted = replace(ledger, quarantine=quarantine)
            _, forecasts = await self._foresight.look(ahead, refs, lifted, list(tags), by_hand=True)
        return plan_facts.document(forecasts, [])

    def _said(self, tag: str, outlook: Outlook, forecasts: Sequence[Forecast]) -> Said:
        """What is, or would be, true of the tag."""
        for forecast in forecasts:
            if tag in forecast.group.tags:
                word = "would go" if forecast.kind == "ready" else forecast.kind
                return Said(tag, word, forecast.full_text)
        if any(c.after is not None and c.after.tag == tag for c in outlook.plan.unchanged):
            return Said(tag, "unchanged", "would change nothing: the same code is in service")
        said = verdict(tag, view_of(self._upgrader, outlook, prereleases=self._prereleases))
        return Said(tag, said.word, said.text)


def view_of(upgrader: Upgrader, outlook: Outlook, *, prereleases: bool, trouble: str = "") -> View:
    """What a verdict is made from, with what one look found."""
    retrying = upgrader.retries.all_pending()
    book = upgrader.book
    stopped = book.journal.failed or ""
    return View(
        outlook.refs,
        outlook.tags,
        book.ledger,
        outlook.plan,
        retrying,
        prereleases,
        trouble,
        stopped=stopped,
        doubt=book.doubt,
        not_ordered=outlook.admission.all_refused,
        going_back={name for view in upgrader.book.ledger.going_back for name in view.probation},
        watched=upgrader.probations.watched,
    )


def check_tag(tag: str) -> None:
    """Raise Refused unless `tag` is inside the grammar."""
    if parse_tag(tag) is None:
        raise Refused(f"{tag!r} is not a release tag; they are <package>/v<X.Y.Z>, e.g. counter/v1.2.0.")


def _pushed(tags: Sequence[str], refs: RefMap) -> None:
    for tag in tags:
        if tag not in refs:
            raise Refused(
                f"The repository has no tag {tag}. Push it first: git push live {tag}; or have it planned "
                f"before that, out of a clone that has it: livetag plan --repo PATH {tag}."
            )


def readable(repo: str) -> Path:
    """The Git directory of a clone that the host may read: the trial runs its code, so it must be the host's own user's.

    Raises Refused, StoreError.
    """
    found = git_directory(Path(repo))
    owner = found.stat().st_uid
    if owner != os.geteuid():
        raise Refused(
            f"{found} belongs to the user {owner}, not to the host's, whose trial would run its code. "
            "Plan it by a push, which needs permission to write: git push -o plan live TAG."
        )
    return found
