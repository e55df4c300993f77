"""From refs to a plan: asks the repository for what the pure `plan` has to know. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from loguru import logger

from orchestrator.runtime.application import Application
from orchestrator.runtime.blueprint import describe
from orchestrator.runtime.description import Description
from orchestrator.runtime.message import is_authors
from orchestrator.runtime.slices import in_turns
from orchestrator.runtime.tables import ModuleTables
from orchestrator.upgrade.candidate import Candidate
from orchestrator.upgrade.checks import Check, Environment, Live
from orchestrator.upgrade.desired import Key, desiring, wishes
from orchestrator.upgrade.gate import Gate
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.orders import Admission
from orchestrator.upgrade.overrides import held_back
from orchestrator.upgrade.overrule import Overruled, Sight, overrule
from orchestrator.upgrade.plan import Group, Plan, Say, make_plan
from orchestrator.upgrade.records import Entry
from orchestrator.upgrade.repository import Repository
from orchestrator.upgrade.table_checks import TableInService
from repo_store.errors import ReleaseInvalid, StoreError
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
    live: Mapping[str, Live] = field(
        default_factory=dict
    )  # module → what the plan knows of its version in service
    overruled: Overruled = Overruled({})  # noqa: RUF009  # what persons have made of what the refs ask for
    admission: Admission = Admission({}, {})  # noqa: RUF009  # what of the refs was ordered by who may


@dataclass(frozen=True, slots=True)
class _Asked:
    """Tags that are one transaction, and tags that go through a hold."""

    together: Sequence[frozenset[str]]
    by_hand: Collection[str]


class Planner:
    """Makes plans for one application and one repository."""

    def __init__(
        self,
        app: Application,
        repository: Repository,
        environment: Environment,
        *,
        prereleases: bool,
        gate: Gate | None = None,
    ) -> None:
        self._app = app
        self._repository = repository
        self._environment = environment
        self._prereleases = prereleases
        self._gate = gate  # of the strict policy; None: whatever the repository has is an order
        self._described: dict[tuple[str, str], Description] = {}  # (package, tree id) of what is in service

    async def look(
        self,
        refs: RefMap,
        ledger: Ledger,
        together: Sequence[frozenset[str]] = (),
        by_hand: Collection[str] = (),
    ) -> Outlook:
        """What remains to be done for these refs. Releases are staged on the way, which is no change of service.

        `together`: sets of tags that are one transaction; `by_hand`: tags that go through a hold. Raises StoreError if
        the repository cannot be read.
        """
        asked = _Asked(together, by_hand)
        if self._gate is None:
            return await self._look(refs, ledger, asked, ledger.quarantine.keys())
        admission = await self._gate.admit(self._repository, refs, ledger)
        barred = {*ledger.quarantine, *(admission.barred or ())}
        return replace(await self._look(admission.refs, ledger, asked, barred), admission=admission)

    async def _look(
        self, refs: RefMap, ledger: Ledger, asked: _Asked, quarantine: Collection[Key]
    ) -> Outlook:
        tags = await in_turns(desiring(refs, quarantine, prereleases=self._prereleases))
        composition: AppManifest | None = None
        if APP in tags:
            try:
                composition = await self._repository.app(tags[APP])
            except ReleaseInvalid as error:
                bad = _broken_composition(tags[APP], str(error))
                rest = await self._look(refs, ledger, asked, {*quarantine, *bad.keys})
                return replace(rest, plan=replace(rest.plan, refused=(bad, *rest.plan.refused)))
        composed = None if composition is None else composition.modules.keys()
        given = wishes(tags, composition, quarantine)
        held = {
            n for n, w in given.items() if w.ref.tag.name not in asked.by_hand and held_back(ledger.holds, n)
        }
        sight = Sight(refs, tags, quarantine, composed, ledger.table, held)
        overruled = overrule(given, ledger.overrides.values(), sight)
        loaded = {name: entry for name, entry in ledger.table.items() if name in self._app.modules}
        found = await self._repository.candidates(overruled.wishes.values(), refs, loaded)
        live = await self._live(ledger.table)
        plan = make_plan(
            found,
            ledger.table,
            app_ref=tags.get(APP),
            live=live,
            environment=self._environment,
            together=asked.together,
            say=Say(overruled.leaving, overruled.holding, ledger.holds, asked.by_hand),
        )
        name = composition.app.name if composition is not None else "app"
        return Outlook(refs, tags, found, plan, name, live, overruled)

    def over(self, repository: Repository) -> Planner:
        """One that looks through another repository: at objects and a stage of its own."""
        other = Planner(
            self._app, repository, self._environment, prereleases=self._prereleases, gate=self._gate
        )
        other._described = dict(
            self._described
        )  # what serves is staged here, and need not be staged there again
        return other

    async def _live(self, table: Mapping[str, Entry]) -> dict[str, Live]:
        live = {}
        self._described = {key: known for key, known in self._described.items() if key in _keys(table)}
        for name, proxy in self._app.modules.items():
            if proxy.implementation is not None:
                blueprint = proxy.implementation.blueprint
                accepts = frozenset(t for t in blueprint.handlers if is_authors(t))
                description = await self.description(table[name]) if name in table else None
                if (
                    description is None
                ):  # what it takes is known all the same: only what it says to others is not
                    description = describe(blueprint, proxy.implementation.entry)
                tables = {each: _in_service(proxy.tables, each) for each in proxy.tables.stores}
                live[name] = Live(accepts, frozenset(blueprint.steps), description, tables)
        return live

    async def description(self, entry: Entry) -> Description | None:
        """What the stage says of a release in service, asked once; None if it cannot be staged now."""
        key = (entry.package, entry.tree_id)
        if key not in self._described:
            try:
                self._described[key] = await self._repository.description(entry)
            except (StoreError, OSError) as error:
                logger.debug("what {} {} says to others is not known: {}", entry.name, entry.version, error)
        return self._described.get(key)


def _keys(table: Mapping[str, Entry]) -> set[tuple[str, str]]:
    return {(entry.package, entry.tree_id) for entry in table.values()}


def _in_service(tables: ModuleTables, name: str) -> TableInService:
    store = tables.stores[name]
    return TableInService(
        store.version,
        frozenset(layer.version for layer in store.layers if not layer.empty),
        frozenset(tables.known_steps(name)),
        store.key_schema,
        store.record_schema,
        len(store),
    )


def _broken_composition(ref: TagRef, reason: str) -> Group:
    check = Check("app.toml", ok=False, why=reason, fault="release")
    return Group(((APP, ref.commit_id or ""),), (ref.tag.name,), (), (check,))
