"""What should be in service once persons have had their say: overrides laid over what the refs ask for (DESIGN §4). Pure.

An override holds as long as the refs give the release that it was made against. When they give another one, the override
is over and the refs win; when they come to ask for the same, it is over too, as there is nothing left to override.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.upgrade.desired import Key, Wish
from orchestrator.upgrade.overrides import PRESENCE, RELEASE, SERVICE, Override
from orchestrator.upgrade.records import Entry
from repo_store.release import RefMap, TagRef, parse_tag

_ORDER = {PRESENCE: 0, RELEASE: 1, SERVICE: 2}  # names last: they need to know which modules there are


@dataclass(frozen=True, slots=True)
class Sight:
    """What overrides are held against: refs, the highest good tag of each package, quarantine, composition, table.

    `composed` are the modules that the composition names, None without one. `held` are those whose release waits for
    the end of a hold: until then it ends no override.
    """

    refs: RefMap
    tags: Mapping[str, TagRef]
    quarantine: Container[Key]
    composed: Collection[str] | None
    table: Mapping[str, Entry]
    held: Container[str] = ()


@dataclass(frozen=True, slots=True)
class Overruled:
    """Wishes with the overrides applied, the modules that leave, the overrides that hold, and those that are over.

    `given` is what the refs give under each name, loaded modules included: what a new override is made against.
    """

    wishes: Mapping[str, Wish]
    given: Mapping[str, Wish] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()
    holding: tuple[Override, ...] = ()
    ended: tuple[tuple[Override, str], ...] = ()


def given_release(wish: Wish | None) -> tuple[str, str] | None:
    """The release that an override is made against: tag and commit id."""
    return None if wish is None else (wish.ref.tag.name, wish.commit_id)


def overrule(wishes: Mapping[str, Wish], overrides: Iterable[Override], sight: Sight) -> Overruled:
    """Lay the overrides over the wishes."""
    wanted = _Wanted(dict(wishes), sight)
    for override in sorted(overrides, key=lambda o: (_ORDER.get(o.key[1], 3), o.seq)):
        wanted.lay(override)
    return wanted.overruled()


class _Wanted:
    """The wishes while overrides are laid over them, one aspect after the other."""

    def __init__(self, wishes: dict[str, Wish], sight: Sight) -> None:
        self._given = wishes
        self._wishes = dict(wishes)
        self._sight = sight
        self._untagged = _untagged_wishes(wishes, sight.table)
        self._loaded: set[str] = set()
        self._unloaded: set[str] = set()
        self._holding: list[Override] = []
        self._ended: list[tuple[Override, str]] = []

    def overruled(self) -> Overruled:
        """What was laid so far."""
        composed, table = self._sight.composed, self._sight.table
        stay = set(table) if composed is None else {*composed, *self._loaded}
        leaving = frozenset(name for name in table if name not in stay or name in self._unloaded)
        wishes = {n: wish for n, wish in {**self._yielding(), **self._wishes}.items() if n not in leaving}
        return Overruled(wishes, self._given, leaving, tuple(self._holding), tuple(self._ended))

    def lay(self, override: Override) -> None:
        """Apply one override, or find out why it holds no longer."""
        over = self._over(override) or self._apply(override)
        if over:
            self._ended.append((override, over))
        else:
            self._holding.append(override)

    def _over(self, o: Override) -> str:
        """Why the override holds no longer; empty: it holds."""
        given, composed = self._given.get(o.module), self._sight.composed
        if given is not None and given_release(given) != o.against and o.module not in self._sight.held:
            return f"the tags give {given.ref.tag.name} now"
        if o.key[1] == PRESENCE:
            return ""
        if (
            given is None
            and o.module not in self._loaded
            and composed is not None
            and o.module not in composed
        ):
            return f"the composition has no {o.module} any more"
        if o.module not in self._wishes and o.module not in self._sight.table:
            return f"{o.module} is loaded no more"
        return ""

    def _apply(self, o: Override) -> str:
        if o.key[1] == PRESENCE:
            return self._lay_presence(o)
        wish = self._wishes.get(o.module) or self._untagged.get(o.module)
        if wish is None or o.module in self._unloaded:
            return ""
        if o.what == "swap":
            return self._lay_release(o, wish)
        if o.key[1] == SERVICE:
            return self._lay_service(o, wish)
        return self._lay_name(o, wish)

    def _lay_presence(self, o: Override) -> str:
        entry = self._sight.table.get(o.module)
        if o.what == "unload":
            if o.module not in self._given and entry is None:
                return "nothing asks for it"
            self._unloaded.add(o.module)
            self._wishes.pop(o.module, None)
            return ""
        if o.module in self._given:
            return "the tags ask for the same" if entry is not None else ""
        self._loaded.add(o.module)
        ref = self._sight.tags.get(o.value)
        if ref is not None:
            self._given[o.module] = self._wishes[o.module] = Wish(o.module, o.value, ref)
        return ""

    def _lay_release(self, o: Override, wish: Wish) -> str:
        tag = f"{wish.package}/v{o.value}"
        entry = self._sight.table.get(o.module)
        ref = self._sight.refs.get(tag)
        if ref is None and entry is not None and entry.tag == tag:
            ref = _ref_of(entry)  # a missing tag never changes what is live, whoever asked for it (DESIGN §4)
        if ref is None or ref.commit_id is None:
            return f"the tag {tag} is gone"
        if (wish.package, ref.commit_id) in self._sight.quarantine:
            return f"{tag} is in quarantine"
        if ref == wish.ref and entry is not None and entry.commit_id == ref.commit_id:
            return "the tags ask for the same"
        self._wishes[o.module] = replace(wish, ref=ref)
        return ""

    def _lay_service(self, o: Override, wish: Wish) -> str:
        enabled, entry = o.what == "enable", self._sight.table.get(o.module)
        if wish.enabled == enabled and entry is not None and entry.enabled == enabled:
            return "the tags ask for the same"
        self._wishes[o.module] = replace(wish, enabled=enabled)
        return ""

    def _lay_name(self, o: Override, wish: Wish) -> str:
        if o.value in self._wishes or o.value in self._sight.table:
            return f"{o.value} is the name of a module now"
        bound, entry = o.what == "bind", self._sight.table.get(o.module)
        same = (o.value in wish.also) == bound and entry is not None and (o.value in entry.also) == bound
        if same and self._owners(o.value) <= {o.module}:
            return "the tags ask for the same"
        for name, other in {**self._serving_on(), **self._wishes}.items():
            if o.value in other.also:
                self._wishes[name] = replace(other, also=tuple(n for n in other.also if n != o.value))
        if bound:
            self._wishes[o.module] = replace(wish, also=(*(n for n in wish.also if n != o.value), o.value))
        else:
            self._wishes[o.module] = replace(wish, also=tuple(n for n in wish.also if n != o.value))
        return ""

    def _serving_on(self) -> dict[str, Wish]:
        """The modules that serve on though nothing asks for them, as they are but for names that others have now."""
        table = self._sight.table
        return {
            name: replace(wish, enabled=table[name].enabled)
            for name, wish in self._untagged.items()
            if name not in self._wishes and name not in self._unloaded
        }

    def _yielding(self) -> dict[str, Wish]:
        """Those of them that give a name away: else the switch would find two modules of one name."""
        table = self._sight.table
        return {n: wish for n, wish in self._serving_on().items() if set(wish.also) != set(table[n].also)}

    def _owners(self, name: str) -> set[str]:
        """The modules that have the name, by the wishes or in the table."""
        wished = {m for m, wish in self._wishes.items() if name in wish.also}
        return wished | {m for m, entry in self._sight.table.items() if name in entry.also}


def _untagged_wishes(wishes: Mapping[str, Wish], table: Mapping[str, Entry]) -> dict[str, Wish]:
    """What the refs would have to ask for to keep the modules that they ask for no more as they are.

    A name that they give to another module is that one's.
    """
    taken = {name for wish in wishes.values() for name in (wish.name, *wish.also)}
    return {
        name: Wish(
            name, entry.package, ref, entry.config, tuple(each for each in entry.also if each not in taken)
        )
        for name, entry in table.items()
        if name not in wishes and (ref := _ref_of(entry)) is not None
    }


def _ref_of(entry: Entry) -> TagRef | None:
    tag = parse_tag(entry.tag)
    return TagRef(tag, entry.tag_object_id, entry.commit_id) if tag is not None else None
