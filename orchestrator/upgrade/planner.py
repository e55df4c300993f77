"""From refs to a plan: asks the repository for what the pure `plan` has to know. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.runtime.application import Application
from orchestrator.runtime.message import is_authors
from orchestrator.upgrade.candidate import Candidate
from orchestrator.upgrade.checks import Check, Environment, Live
from orchestrator.upgrade.desired import Key, desired, wishes
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.plan import Group, Plan, joined, make_plan
from orchestrator.upgrade.repository import Repository
from repo_store.errors import ReleaseInvalid
from repo_store.manifest import AppManifest
from repo_store.release import APP, RefMap, TagRef


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one look at the refs found: the plan, and what it was made from."""

    refs: RefMap = field(default_factory=dict)
    tags: Mapping[str, TagRef] = field(default_factory=dict)  # package → its highest good tag
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    plan: Plan = Plan()  # noqa: RUF009  # a frozen value
    app_name: str = "app"


class Planner:
    """Makes plans for one application and one repository."""

    def __init__(
        self, app: Application, repository: Repository, environment: Environment, *, prereleases: bool
    ) -> None:
        self._app = app
        self._repository = repository
        self._environment = environment
        self._prereleases = prereleases

    async def look(self, refs: RefMap, ledger: Ledger, together: Sequence[frozenset[str]] = ()) -> Outlook:
        """What remains to be done for these refs. Releases are staged on the way, which is no change of service.

        Raises StoreError if the repository cannot be read.
        """
        return await self._look(refs, ledger, together, ledger.quarantine.keys())

    async def _look(
        self, refs: RefMap, ledger: Ledger, together: Sequence[frozenset[str]], quarantine: Collection[Key]
    ) -> Outlook:
        tags = desired(refs, quarantine, prereleases=self._prereleases)
        composition: AppManifest | None = None
        if APP in tags:
            try:
                composition = await self._repository.app(tags[APP])
            except ReleaseInvalid as error:
                bad = _broken_composition(tags[APP], str(error))
                rest = await self._look(refs, ledger, together, {*quarantine, *bad.keys})
                return replace(rest, plan=replace(rest.plan, refused=(bad, *rest.plan.refused)))
        wanted = wishes(tags, composition, quarantine)
        loaded = {name: entry for name, entry in ledger.table.items() if name in self._app.modules}
        found = await self._repository.candidates(wanted.values(), refs, loaded)
        plan = make_plan(
            found, ledger.table, app_ref=tags.get(APP), live=self._live(), environment=self._environment
        )
        name = composition.app.name if composition is not None else "app"
        return Outlook(refs, tags, found, joined(plan, together), name)

    def _live(self) -> dict[str, Live]:
        live = {}
        for name, proxy in self._app.modules.items():
            if proxy.implementation is not None:
                blueprint = proxy.implementation.blueprint
                accepts = frozenset(t for t in blueprint.handlers if is_authors(t))
                live[name] = Live(accepts, frozenset(blueprint.steps))
        return live


def _broken_composition(ref: TagRef, reason: str) -> Group:
    check = Check("app.toml", ok=False, why=reason, fault="release")
    return Group(((APP, ref.commit_id or ""),), (ref.tag.name,), (), (check,))
