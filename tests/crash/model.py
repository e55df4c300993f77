"""What a deployment of two modules promises, on a page: tags, what serves, who is blamed, what is remembered, what is told.

It knows nothing of plans, phases or records. `ledger` is a durable module, `counter` is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MODULES = ("counter", "ledger")
DURABLE = "ledger"


@dataclass
class Told:
    """One line of the history of a module; numbers of releases, None: nothing served."""

    module: str
    before: int | None
    after: int
    outcome: str
    way_back: bool = False


@dataclass
class Model:
    """What should be so. A release is a number; `kinds` says what is wrong with it, if anything is."""

    kinds: dict[int, str] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    live: dict[str, tuple[str, int]] = field(default_factory=dict)
    quarantine: set[tuple[str, int]] = field(default_factory=set)
    history: list[Told] = field(default_factory=list)
    notes: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in MODULES})
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODULES, 0))
    held: bool = False

    def wanted(self, module: str) -> tuple[str, int] | None:
        """The highest tag whose release nobody has quarantined."""
        good = [
            (tag, number)
            for tag, number in self.tags.items()
            if tag.startswith(f"{module}/") and (module, number) not in self.quarantine
        ]
        return max(good, key=lambda each: version_of(each[0]), default=None)

    def newest_tag(self, module: str) -> str | None:
        mine = [tag for tag in self.tags if tag.startswith(f"{module}/")]
        return max(mine, key=version_of, default=None)

    def look(self) -> None:
        """What a running host makes of the tags."""
        while not self.held and any(self._step(module) for module in MODULES):
            pass

    def _step(self, module: str) -> bool:
        wanted, live = self.wanted(module), self.live.get(module)
        if wanted is None or wanted == live:
            return False
        before = live[1] if live is not None else None
        if before == wanted[1]:
            self.live[module] = wanted
            self.history.append(Told(module, before, wanted[1], "unchanged"))
        elif self.kinds[wanted[1]] == "good":
            self.live[module] = wanted
            self.history.append(Told(module, before, wanted[1], "committed"))
        else:
            self.quarantine.add((module, wanted[1]))
            self.history.append(Told(module, before, wanted[1], "rolled_back"))
        return True

    def died(self) -> None:
        """A SIGKILL takes what is only in memory."""
        for module in MODULES:
            if module != DURABLE:
                self.notes[module] = []
                self.dropped[module] = 0

    def last_change(self) -> Told | None:
        """What a rollback takes back: it goes further back each time, so a way back is not what it takes back."""
        changes = (
            each for each in reversed(self.history) if each.outcome == "committed" and not each.way_back
        )
        return next(changes, None)

    def told(self, module: str) -> Iterator[tuple[int | None, int, str]]:
        """The history of one module, oldest first."""
        return ((each.before, each.after, each.outcome) for each in self.history if each.module == module)


def version_of(tag: str) -> tuple[int, ...]:
    return tuple(int(part) for part in tag.partition("/v")[2].split("."))
