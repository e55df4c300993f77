"""Deployments over the control socket: push, deploy, retry, rollback, and what became of each tag (DESIGN §9)."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping, Sequence

import msgspec

from orchestrator.control.permissions import Permissions
from orchestrator.control.plans import Plans, check_tag, view_of
from orchestrator.control.reconfiguration import Reconfiguration
from orchestrator.control.requests import read
from orchestrator.control.server import Emit
from orchestrator.control.signed_rollback import message_of, unsigned, verified
from orchestrator.control.wire import Refused
from orchestrator.runtime.own_work import in_own_thread
from orchestrator.upgrade import words
from orchestrator.upgrade.causes import Cause
from orchestrator.upgrade.desired import Key
from orchestrator.upgrade.progress import Event
from orchestrator.upgrade.rollback import plan_rollback, shown
from orchestrator.upgrade.rolling_back import roll_back
from orchestrator.upgrade.upgrader import Upgrader
from orchestrator.upgrade.verdict import Verdict, verdict
from repo_store.release import Tag, parse_tag


class _Tag(msgspec.Struct):
    tag: str
    wait: bool = True
    confirmed: bool = False  # wait for the end of its probation, too


class _RefChange(msgspec.Struct):
    ref: str
    old: str | None = None
    new: str | None = None


class _Push(msgspec.Struct):
    changes: list[_RefChange]
    options: list[str] = []
    who: str = ""


class _Confirm(msgspec.Struct):
    module: str
    reason: str | None = None
    who: str = ""


class _Rollback(msgspec.Struct):
    module: str | None = None
    txn: int | None = None
    only: bool = False
    to: str | None = None
    reason: str | None = None
    dry_run: bool = False
    signed: dict[str, str] = {}  # tag → its object as the person signed it (strict policy)


class Deployments:
    """Asks the upgrader to look, and says what came of it."""

    def __init__(
        self,
        upgrader: Upgrader,
        plans: Plans,
        reconfiguration: Reconfiguration,
        permissions: Permissions,
        *,
        prereleases: bool,
    ) -> None:
        self._upgrader = upgrader
        self._plans = plans
        self._reconfiguration = reconfiguration
        self._permissions = permissions
        self._prereleases = prereleases

    async def wake(self, _request: dict[str, object], _emit: Emit) -> object:
        self._upgrader.look(push_over=True)
        return None

    async def deploy(self, request: dict[str, object], emit: Emit) -> object:
        asked = read(request, _Tag)
        self._permissions.check(request, [asked.tag])
        self._known_tag(asked.tag, await self._upgrader.repository.refs())
        self._upgrader.asked.deploy([asked.tag])
        return await self._outcomes([asked.tag], emit, wait=asked.wait, confirmed=asked.confirmed)

    async def pushing(self, request: dict[str, object], _emit: Emit) -> None:
        """A push is about to write these tags: a look that finds them before it has said so knows whose they are."""
        asked = read(request, _Push)
        self._upgrader.announced(_moves(asked), Cause(self._permissions.identity(request, asked.who).shown))

    async def push(self, request: dict[str, object], emit: Emit) -> object:
        asked = read(request, _Push)
        moves = _moves(asked)
        tags = list(moves)
        if "plan" in asked.options:
            return await self._plans.of_push({c.ref.removeprefix("refs/tags/"): c.new for c in asked.changes})
        who = self._permissions.identity(request, asked.who)
        self._upgrader.told_of(moves, Cause(who.shown))
        gone = {
            parsed.package
            for c in asked.changes
            if c.new is None and (parsed := parse_tag(c.ref.removeprefix("refs/tags/")))
        }
        confirmed = "wait=confirmed" in asked.options
        return await self._outcomes(
            tags, emit, wait="no-wait" not in asked.options, gone=gone, confirmed=confirmed
        )

    async def _outcomes(
        self,
        tags: Sequence[str],
        emit: Emit,
        *,
        wait: bool,
        gone: Container[str] = (),
        confirmed: bool = False,
    ) -> object:
        """Look again, pass on what happens, and say what became of each tag once it is decided.

        With `confirmed`, once its probation is over, too, or its time is and too little was measured.

        Of the packages in `gone`, a tag was deleted: what comes into service instead has another tag.
        """

        def listen(event: Event) -> None:
            mine = [t for t in event.tags if t in tags or ((p := parse_tag(t)) and p.package in gone)]
            if mine:
                emit({"tag": " ".join(mine), "phase": event.phase, "text": event.text})

        with self._upgrader.progress.listening(listen):
            number = self._upgrader.look(push_over=True)
            if wait:
                await self._upgrader.passed(number)
                while self._upgrader.will_look_again and any(
                    v.word == "under way" for v in self._verdicts(tags)
                ):
                    await self._upgrader.next_pass()
                while confirmed and self._upgrader.probations.undecided(tags):
                    await self._news()
        if not wait:
            text = "not waited for; see livetag history"
            return {"tags": [{"tag": t, "verdict": "under way", "text": text} for t in tags]}
        return {"tags": [{"tag": v.tag, "verdict": v.word, "text": v.text} for v in self._verdicts(tags)]}

    async def _news(self) -> None:
        """Return when something has come of a probation, or of the tags: a new release takes a probation over."""
        upgrader = self._upgrader
        both = [
            asyncio.ensure_future(each) for each in (upgrader.probations.next_news(), upgrader.next_pass())
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in both:
                each.cancel()

    def _verdicts(self, tags: Sequence[str]) -> list[Verdict]:
        return [self._verdict(tag) for tag in tags]

    def _verdict(self, tag: str) -> Verdict:
        upgrader = self._upgrader
        view = view_of(upgrader, upgrader.outlook, prereleases=self._prereleases, trouble=upgrader.trouble)
        return verdict(tag, view)

    @staticmethod
    def _known_tag(tag: str, refs: Mapping[str, object]) -> None:
        check_tag(tag)
        if tag not in refs:
            raise Refused(f"The repository has no tag {tag}. Push it first: git push live {tag}.")

    async def retry(self, request: dict[str, object], emit: Emit) -> object:
        asked = read(request, _Tag)
        self._permissions.check(request, [asked.tag])
        refs = await self._upgrader.repository.refs()
        taken_back = self._taken_back(asked.tag) if asked.tag not in refs else None
        if taken_back is not None:
            await self._upgrader.lift(self._quarantined_with(taken_back), "livetag retry", "asked for")
            text = f"commit {taken_back[1][:12]} is out of quarantine. Push its tag again: git push live {asked.tag}"
            return {"tags": [{"tag": asked.tag, "verdict": "lifted", "text": text}]}
        self._known_tag(asked.tag, refs)
        ref = refs[asked.tag]
        keys = self._quarantined_with((ref.tag.package, ref.commit_id or ""))
        if not keys:
            raise Refused(
                f"{asked.tag} is not in quarantine; nothing was changed. livetag plan {asked.tag} says what it is."
            )
        await self._upgrader.lift(keys, "livetag retry", "asked for")
        answer = await self._outcomes([asked.tag], emit, wait=asked.wait, confirmed=asked.confirmed)
        said = self._verdict(asked.tag)
        if asked.wait and said.word == "recorded":  # another tag is higher, or a person keeps it back
            text = f"commit {keys[0][1][:12]} is out of quarantine; {said.text}"
            return {"tags": [{"tag": asked.tag, "verdict": "lifted", "text": text}]}
        return answer

    def _taken_back(self, tag: str) -> Key | None:
        """What was last quarantined under a tag that is not there: the push that brought it took it back."""
        found = [q for q in self._upgrader.book.ledger.quarantine.values() if q.tag == tag]
        last = max(found, key=lambda q: q.seq, default=None)
        return None if last is None else (last.package, last.commit_id)

    def _quarantined_with(self, key: Key) -> list[Key]:
        """All packages that were quarantined at this commit: they failed together."""
        quarantine = self._upgrader.book.ledger.quarantine
        return [k for k in quarantine if k[1] == key[1]] if key in quarantine else []

    async def confirm(self, request: dict[str, object], _emit: Emit) -> object:
        """A person ends the probation of a module: what serves is what an automatic way back returns to from now on."""
        asked, upgrader = read(request, _Confirm), self._upgrader
        entry = upgrader.book.ledger.table.get(asked.module)
        if entry is None:
            raise Refused(f"There is no module {asked.module}; livetag status shows those that there are.")
        self._permissions.check(request, [entry.tag])
        view = upgrader.probations.of(asked.module)
        if view is not None and view.breach is not None and view.degraded is None:
            raise Refused(
                f"{asked.module} {entry.version} does not keep its limits, and goes back now: {view.breach.reason}. Nothing "
                "was confirmed; livetag history shows how that ends."
            )
        who = self._permissions.identity(request, asked.who).shown
        why = f": {asked.reason}" if asked.reason else ""
        done = await upgrader.probations.confirm(asked.module, f"confirmed by {who}{why}")
        if done is None:
            raise Refused(
                f"{asked.module} {entry.version} is in no probation; there is nothing to confirm, and nothing was changed."
            )
        return {"txn": done.id, "modules": list(done.probation), "text": words.confirmed(done)}

    async def rollback(self, request: dict[str, object], emit: Emit) -> object:
        asked = read(request, _Rollback)
        upgrader = self._upgrader
        refs = await upgrader.repository.refs()
        rollback = plan_rollback(
            upgrader.book.ledger, refs, module=asked.module, txn=asked.txn, only=asked.only, to=asked.to
        )
        if asked.dry_run:
            plan = {} if rollback.commands else {"plan": await self._plans.of_rollback(rollback)}
            return {**shown(rollback), **plan}
        if not asked.reason:
            raise Refused(
                "A rollback needs a reason; the next reader of the history has only that. Add --reason TEXT."
            )
        self._permissions.check(request, [step.tag.name for step in rollback.steps])
        if rollback.commands:
            return await self._reconfiguration.undo(rollback.commands, asked.reason, rollback.txn, emit)
        contents: dict[Tag, bytes] = {}
        who = "livetag rollback"
        if self._permissions.strict:
            if not asked.signed:
                raise unsigned(rollback, asked.reason)
            directory = upgrader.repository.store_path.parent
            contents, who = await in_own_thread(verified, rollback, asked.signed, directory)
        message = message_of(rollback, asked.reason)
        names = await roll_back(upgrader, rollback, Cause(who, asked.reason, rollback.txn), message, contents)
        return await self._outcomes(names, emit, wait=True)


def _moves(push: _Push) -> dict[str, str | None]:
    """The tags of a push, and what it makes them point at."""
    return {c.ref.removeprefix("refs/tags/"): c.new for c in push.changes if c.ref.startswith("refs/tags/")}
