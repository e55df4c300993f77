"""The strict policy in the host: only what somebody ordered who may is looked at at all (DESIGN §6 P7).

Every tag is verified by its object id before anything of its tree is staged or run, wherever it came from: a push whose
hooks were gone round, a tag made beside them, a fetch. What holds:
1. A tag without a valid order is as if it were not there; the last order of that tag stays in force.
2. A tag that is gone is in force as before: a deletion is nobody's order.
3. What would be brought into service is verified anew, so a key that was revoked or has expired since orders nothing more.
4. What is in service stays there, whatever becomes of the keys: only an order changes it, or the host's own way back.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.runtime.slices import in_turns
from orchestrator.upgrade.desired import Key, desiring, wishes
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.orders import Admission, pinned, superseded
from orchestrator.upgrade.records import TagAccepted
from orchestrator.upgrade.repository import Repository
from repo_store.errors import ReleaseInvalid, StoreError
from repo_store.errors import TagRefused as NotAnOrder
from repo_store.policy_files import Policy, load_policy
from repo_store.release import APP, RefMap, TagRef
from repo_store.verify import Order

GOOD_S = 3.0  # how long a verified signature is not verified again
BAD_S = 60.0  # a key may become valid by the clock alone

_Verdict = Order | str


@dataclass(slots=True)
class _Look:
    """What one look has found so far; `trouble`: why the policy permits nothing."""

    repository: Repository
    ledger: Ledger
    trouble: str
    refs: dict[str, TagRef] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    accepted: dict[str, TagAccepted] = field(default_factory=dict)


class Gate:
    """Admits tags by the policy files of one deployment directory, which are read anew at each look."""

    def __init__(self, directory: Path, *, prereleases: bool) -> None:
        self._directory = directory
        self._prereleases = prereleases
        self._policy: Policy | None = None
        self._known: dict[tuple[str, str], tuple[float, _Verdict]] = {}

    async def admit(self, repository: Repository, refs: RefMap, ledger: Ledger) -> Admission:
        """What of these refs is ordered. Nothing is journaled here. Raises StoreError if Git cannot be asked."""
        look = _Look(repository, ledger, self._read_policy())
        for name in sorted({*refs, *ledger.orders}):
            await self._one(name, refs.get(name), look)
        barred = await self._verify_what_would_go(look)
        self._forget(refs)
        return Admission(look.refs, look.refused, tuple(look.accepted.values()), barred)

    def _read_policy(self) -> str:
        """Read the files; returns why they permit nothing, empty if they can be read."""
        try:
            policy = load_policy(self._directory)
            if (
                not policy.strict
            ):  # it was strict when the host started: a file that was changed does not open the gate
                raise ReleaseInvalid(
                    f'{self._directory}/livetag.toml does not say mode = "strict" any more, and this host was started with '
                    "it. To leave it: livetag restart"
                )
        except (StoreError, OSError) as error:
            self._policy, self._known = None, {}
            return str(error)
        if policy != self._policy:
            self._policy, self._known = policy, {}
        return ""

    async def _one(self, name: str, ref: TagRef | None, look: _Look) -> None:
        ledger = look.ledger
        pin = pinned(name, ledger.orders, ledger.quarantine)
        if ref is None:
            if pin is not None:
                look.refs[name] = pin
                look.refused[name] = _DELETED
            return
        problem = ""
        if superseded(name, ref.object_id, ledger.orders, ledger.quarantine):
            problem = _SUPERSEDED
        elif all(order.object_id != ref.object_id for order in ledger.orders.get(name, ())):
            verdict = look.trouble or await self._verdict(look.repository, ref)
            if isinstance(verdict, str):
                problem = verdict
            else:
                look.accepted[name] = TagAccepted(
                    name, ref.object_id, verdict.commit_id, verdict.principal, verdict.key
                )
        if not problem:
            look.refs[name] = ref
            return
        look.refused[name] = problem
        if pin is not None:
            look.refs[name] = pin

    async def _verify_what_would_go(self, look: _Look) -> dict[Key, str]:
        """Verify anew each tag that would be acted on (3.); those that fail are out, and the next lower one is looked at."""
        ledger = look.ledger
        while True:
            tags = await in_turns(
                desiring(look.refs, ledger.quarantine.keys(), prereleases=self._prereleases)
            )
            swapped = {o.value.removeprefix("v") for o in ledger.overrides.values() if o.what == "swap"}
            wanted = {ref.tag.name: ref for ref in tags.values()}
            wanted |= {n: ref for n, ref in look.refs.items() if str(ref.tag.version) in swapped}
            gone = False
            for name, ref in wanted.items():
                if not _in_service(ref, ledger):
                    verdict = look.trouble or await self._verdict(look.repository, ref)
                    if isinstance(verdict, str):
                        look.refused[name] = verdict
                        look.accepted.pop(name, None)
                        del look.refs[name]
                        gone = True
            if not gone:
                return await self._barred(look, tags)

    async def _barred(self, look: _Look, tags: Mapping[str, TagRef]) -> dict[Key, str]:
        """What the composition would take from its own commit, and its signer may not release."""
        ledger = look.ledger
        app = tags.get(APP)
        if app is None or self._policy is None:
            return {}
        try:
            composition = await look.repository.app(app)
        except ReleaseInvalid:
            return {}  # the plan says so
        principal = _principal(app, look)
        found = {}
        for wish in wishes(tags, composition, ledger.quarantine.keys()).values():
            serving = any(
                e.package == wish.package and e.commit_id == wish.commit_id for e in ledger.table.values()
            )
            if (
                wish.ref is app
                and not serving
                and not self._policy.releasers.permits(principal, wish.package)
            ):
                why = (
                    f"{wish.package} has no tag of its own, so it would come from the commit of {app.tag.name}; that was signed "
                    f"by {principal}, who may not release {wish.package} (releasers)"
                )
                found[wish.package, wish.commit_id] = why
        return found

    async def _verdict(self, repository: Repository, ref: TagRef) -> _Verdict:
        """The order that a tag is, or why it is none. Remembered for a moment, and until the policy files change."""
        key, now = (ref.tag.name, ref.object_id), time.monotonic()
        at, known = self._known.get(key, (0.0, ""))
        if key in self._known and now - at < (BAD_S if isinstance(known, str) else GOOD_S):
            return known
        if self._policy is None:
            return "the policy cannot be read"
        verdict: _Verdict
        try:
            verdict = await repository.verify(ref, {ref.tag.package}, self._policy)
        except NotAnOrder as error:
            verdict = str(error)
        self._known[key] = (now, verdict)
        return verdict

    def _forget(self, refs: Collection[str]) -> None:
        self._known = {key: known for key, known in self._known.items() if key[0] in refs}


_DELETED = (
    "it was deleted in the repository. The policy is strict: a deletion is nobody's order, so what it ordered is still in "
    "force. To go back, sign a higher tag on the commit before"
)
_SUPERSEDED = "this tag object was superseded by a later one and is not accepted again. To go back, sign a new tag on that commit"


def _in_service(ref: TagRef, ledger: Ledger) -> bool:
    if ref.tag.package == APP:
        return ledger.app == (ref.tag.name, ref.commit_id)
    return any(
        entry.tag == ref.tag.name and entry.tag_object_id == ref.object_id for entry in ledger.table.values()
    )


def _principal(app: TagRef, look: _Look) -> str:
    fresh = look.accepted.get(app.tag.name)
    if fresh is not None and fresh.object_id == app.object_id:
        return fresh.principal
    mine = [o for o in look.ledger.orders.get(app.tag.name, ()) if o.object_id == app.object_id]
    return mine[-1].principal if mine else ""
