"""The reconfiguration commands, decided: which facts one writes, or why it is refused (paper §3.1, DESIGN §9). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.overrule import Overruled, given_release
from orchestrator.upgrade.records import Deed, Entry, Held, Overridden, Unheld
from orchestrator.upgrade.states import AlreadySo, CommandRefused, ModuleState, Verb, after
from repo_store.release import RefMap, TagRef, is_package_name


@dataclass(frozen=True, slots=True)
class Command:
    """What a person asks for. `value`: package to load, version to swap in, or name to bind; `by` are who and why."""

    verb: Verb
    module: str
    value: str = ""
    version: str = ""  # of a module that is loaded
    disabled: bool = False  # loaded out of service
    who: str = ""
    why: str = ""
    reverts: int | None = None  # the transaction that it takes back

    @property
    def text(self) -> str:
        """The command as it would be typed."""
        parts = {Verb.BIND: (self.value, self.module), Verb.UNBIND: (self.value,)}.get(self.verb)
        swapped = (self.module, self.value) if self.verb is Verb.SWAP else (self.module,)
        return " ".join(["livetag", self.verb.value, *(parts or swapped)])


@dataclass(frozen=True, slots=True)
class Scene:
    """What a command is decided by: the ledger, the refs and what they give, and the state of each module known."""

    ledger: Ledger
    refs: RefMap
    tags: Mapping[str, TagRef]
    overruled: Overruled
    states: Mapping[str, ModuleState]


def decide(command: Command, scene: Scene) -> list[Overridden]:
    """The overrides that a command makes.

    Raises AlreadySo if nothing would change, CommandRefused with what is so and what to do instead.
    """
    if command.verb is Verb.LOAD:
        return _load(command, scene)
    if command.verb is Verb.BIND:
        return _bind(command, scene)
    if command.verb is Verb.UNBIND:
        return _unbind(command, scene)
    entry = _known(command, scene)
    if command.verb is Verb.SWAP:
        return [_swap(command, scene, entry)]
    after(command.module, scene.states[command.module], command.verb)
    return [_fact(command, scene, command.verb.value)]


def _fact(command: Command, scene: Scene, what: Deed, value: str = "", module: str = "") -> Overridden:
    name = module or command.module
    against = given_release(scene.overruled.given.get(name))
    return Overridden(name, what, value, command.who, command.why, against, command.reverts)


def _known(command: Command, scene: Scene) -> Entry | None:
    """The module's row in the release table. Raises CommandRefused if nothing is known of such a module."""
    if command.module not in scene.states:
        owner = next((e.name for e in scene.ledger.table.values() if command.module in e.also), None)
        hint = f"{command.module} is a name of the module {owner}" if owner else _modules(scene)
        raise CommandRefused(f"There is no module {command.module}; nothing was changed. {hint}.")
    return scene.ledger.table.get(command.module)


def _modules(scene: Scene) -> str:
    return f"Modules: {', '.join(sorted(scene.states)) or 'none'}"


# -- load ----------------------------------------------------------------------------------------------------------


def _load(command: Command, scene: Scene) -> list[Overridden]:
    name = command.module
    if not is_package_name(name):
        raise CommandRefused(
            f"{name!r} cannot name a module: lower-case letters, digits and _, a letter first. Nothing was changed."
        )
    owner = next((e.name for e in scene.ledger.table.values() if name in e.also), None)
    if owner is not None:
        raise CommandRefused(
            f"{name} is a name of {owner}; nothing was changed. livetag unbind {name} first, or choose another."
        )
    given = scene.overruled.given.get(name)
    package = command.value or (given.package if given is not None else name)
    _load_again(command, scene, package)
    if given is not None and given.package != package:
        raise CommandRefused(f"{name} is made from {given.package}, not from {package}; nothing was changed.")
    if given is None and package not in scene.tags:
        known = ", ".join(sorted(p for p in scene.tags if p != "app")) or "none"
        raise CommandRefused(
            f"There is no release of {package} to load {name} from; nothing was changed. Released packages: {known}. "
            f"Push a tag, e.g. {package}/v1.0.0, or name another with --package."
        )
    load = _fact(command, scene, "load", package)
    ref = given.ref if given is not None else scene.tags[package]
    more = msgspec.structs.replace(load, against=(ref.tag.name, ref.commit_id or ""))
    facts = [load]
    if command.version:
        version = _released(package, command.version, scene).tag.version
        facts.append(msgspec.structs.replace(more, what="swap", value=str(version)))
    if command.disabled:
        facts.append(msgspec.structs.replace(more, what="disable", value=""))
    return facts


def _load_again(command: Command, scene: Scene, package: str) -> None:
    """Whether the module may be loaded: it is not yet. Raises AlreadySo or CommandRefused."""
    entry, name = scene.ledger.table.get(command.module), command.module
    if entry is None:
        return
    version = command.version.removeprefix("v")
    if entry.package != package or (version and version != entry.version):
        raise CommandRefused(
            f"{name} is loaded already, as {entry.package} {entry.version}; nothing was changed. Choose another name, or "
            f"livetag swap {name} VERSION."
        )
    after(name, scene.states[name], Verb.LOAD)


# -- swap ----------------------------------------------------------------------------------------------------------


def _swap(command: Command, scene: Scene, entry: Entry | None) -> Overridden:
    after(command.module, scene.states[command.module], Verb.SWAP)
    assert entry is not None  # noqa: S101  # the table of states: what is swapped is loaded, or failed to
    ref = _released(entry.package, command.value, scene)
    if ref.commit_id == entry.commit_id and scene.states[command.module] is ModuleState.FAILED:
        raise CommandRefused(
            f"{ref.tag.name} is the release that could not come back; nothing was changed. livetag restart tries it again."
        )
    if ref.commit_id == entry.commit_id:
        raise AlreadySo(f"{command.module} is already {ref.tag.name}; nothing was changed.")
    return _fact(command, scene, "swap", str(ref.tag.version))


def _released(package: str, version: str, scene: Scene) -> TagRef:
    """The tag of a version. Raises CommandRefused if there is none, or its commit is in quarantine."""
    name = f"{package}/v{version.removeprefix('v')}"
    ref = scene.refs.get(name)
    if ref is None or ref.commit_id is None:
        known = ", ".join(sorted(tag for tag in scene.refs if tag.startswith(f"{package}/"))) or "none"
        raise CommandRefused(
            f"There is no release {name}; nothing was changed. Releases of {package}: {known}."
        )
    held = scene.ledger.quarantine.get((package, ref.commit_id))
    if held is not None:
        raise CommandRefused(
            f"{name} is in quarantine: {held.reason}. To have it tried again: livetag retry {name}."
        )
    return ref


# -- names ---------------------------------------------------------------------------------------------------------


def _bind(command: Command, scene: Scene) -> list[Overridden]:
    name, entry = command.value, _known(command, scene)
    after(command.module, scene.states[command.module], Verb.BIND)
    if not name or not name.isprintable() or name != name.strip():
        raise CommandRefused(
            f"{name!r} cannot be a name: printable, and no space at its ends. Nothing was changed."
        )
    if name in scene.ledger.table or name in scene.overruled.wishes:
        raise CommandRefused(
            f"{name} is the name of a module, which stays with it; nothing was changed. Only more names can be bound."
        )
    if entry is not None and name in entry.also:
        raise AlreadySo(f"{name} is already bound to {command.module}; nothing was changed.")
    return [_fact(command, scene, "bind", name)]


def _unbind(command: Command, scene: Scene) -> list[Overridden]:
    name = command.value
    owner = next((entry.name for entry in scene.ledger.table.values() if name in entry.also), None)
    if owner is None and name in scene.ledger.table:
        raise CommandRefused(
            f"{name} is the module's own name, which stays with it; nothing was changed. livetag disable {name} takes it "
            "out of service."
        )
    if owner is None:
        raise CommandRefused(f"Nothing is bound to {name}; nothing was changed. livetag names shows what is.")
    after(owner, scene.states[owner], Verb.UNBIND)
    return [_fact(command, scene, "unbind", name, module=owner)]


# -- holds ---------------------------------------------------------------------------------------------------------


def hold(module: str, who: str, why: str, scene: Scene) -> Held:
    """The fact of a hold, of one module or, with an empty name, of all. Raises AlreadySo or CommandRefused."""
    known = {*scene.states, *scene.overruled.given}
    if module and module not in known:
        names = ", ".join(sorted(known)) or "none"
        raise CommandRefused(f"There is no module {module} to hold; nothing was changed. Modules: {names}.")
    before = scene.ledger.holds.get(module)
    if before is not None:
        raise AlreadySo(f"Nothing was changed: {module or 'everything'} is already {before.said}.")
    return Held(module, who, why)


def unhold(module: str, who: str, why: str, scene: Scene) -> Unheld:
    """The fact that ends a hold. Raises AlreadySo or CommandRefused."""
    holds = scene.ledger.holds
    if module in holds:
        return Unheld(module, who, why)
    if module and "" in holds:
        raise CommandRefused(
            f"Nothing holds {module} alone, and nothing was changed. Everything is {holds[''].said}."
        )
    one = next(iter(holds), None)
    hint = f" livetag unhold {one} ends the hold of {one}." if not module and one else ""
    raise AlreadySo(f"{module or 'Nothing'} is {'not ' if module else ''}held; nothing was changed.{hint}")
