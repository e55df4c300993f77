"""What the disk must have of durable modules after each life of the host, told from what their units did (DESIGN §6 P2, §7.6).

The units of a module that are on disk are the first so many that it ended: how many, its count on disk says. From that
follow its Table, what waits for it, what its units have sent to others and what they have not; all of it is compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from orchestrator.upgrade.durable_rows import DurableImage, Stored
from tests.simulation.modules import STEP

if TYPE_CHECKING:
    from tests.simulation.watch import Line, Mirror, Watch

Numbered = tuple["Line", int]


@dataclass
class Unit:
    """One message that a module has begun to handle in this life."""

    line: Line
    n: int
    done: bool = False
    row: bool = False  # it counted in the Table, too
    sent: list[Numbered] = field(default_factory=list)  # from a durable module to a durable module

    @property
    def message(self) -> Numbered:
        return self.line, self.n


def waiting(body: object) -> tuple[int, int, int] | None:
    """Epoch, sender and number of a message that waits; None: not one of ours."""
    if isinstance(body, dict) and {"epoch", "src", "n"} <= body.keys():
        return body["epoch"], body["src"], body["n"]
    return None


class _OnDisk:
    """What the disk has of one module, read back."""

    def __init__(self, name: str, image: DurableImage) -> None:
        state: dict[str, int] = msgspec.msgpack.decode(image.state)
        (count,) = state.values()
        self.count = count - STEP * (image.state_version - 1)
        self.rows: dict[int, int] = {}
        for table in image.tables:
            for chunk in table.parts:
                for src, record in msgspec.msgpack.decode(chunk):
                    self.rows[src] = next(iter(record.values())) - STEP * (table.version - 1)
        self.inbox = numbered(name, (message.body for message in image.messages))


def numbered(name: str, bodies: Iterable[object]) -> list[Numbered]:
    found = [each for body in bodies if (each := waiting(body)) is not None]
    return [((epoch, src, name), n) for epoch, src, n in found]


class Units:
    """The units of one life, and what is owed to senders over all of them."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._began: dict[str, list[Unit]] = {}
        self._base: dict[str, Mirror] = {}
        self._told: dict[str, int] = {}  # module → the highest count that it has answered
        self.owed: set[Numbered] = set()  # accepted by a durable module, and told so

    def begin_life(self) -> None:
        self._began, self._told = {}, {}
        self._base = {name: mirror.copy() for name, mirror in self._watch.mirrors.items()}

    def begin(self, name: str, line: Line, n: int) -> Unit:
        unit = Unit(line, n)
        self._began.setdefault(name, []).append(unit)
        return unit

    def answered(self, name: str, count: int) -> None:
        """A durable module has answered, so what it has counted is on disk."""
        self._told[name] = max(count, self._told.get(name, 0))

    def end_life(self, stored: Stored, must: set[str], *, clean: bool) -> dict[str, Mirror]:
        """Compare, and return what each durable module goes on with; `must`: the durable modules of the table."""
        letters = {
            each for letter in stored.letters for each in numbered(letter.module, [letter.message.body])
        }
        for name in sorted(must - stored.modules.keys()):
            self._watch.fail(f"{name} is durable, and the disk has nothing of it")
        disks = {name: _OnDisk(name, image) for name, image in sorted(stored.modules.items())}
        kept = {name: self._compare(name, disk, letters, clean=clean) for name, disk in disks.items()}
        self._sent(disks, letters)
        self.owed = {each for each in self.owed if each[0][2] in disks}
        for name, disk in disks.items():
            self._go_back(name, disk, letters)
            self.owed.update(disk.inbox)
        return kept

    def _lasting(self, name: str, disk: _OnDisk) -> tuple[list[Unit], list[Unit]]:
        """The units that are on disk, and those that are not."""
        units, left = self._began.get(name, []), disk.count - self._before(name).total
        at = 0
        while left > 0 and at < len(units):
            left -= units[at].done
            at += 1
        return units[:at], units[at:]

    def _before(self, name: str) -> Mirror:
        return self._base.get(name) or self._watch.new_mirror()

    def _compare(self, name: str, disk: _OnDisk, letters: set[Numbered], *, clean: bool) -> Mirror:
        watch, mirror = self._watch, self._before(name).copy()
        ended = sum(unit.done for unit in self._began.get(name, []))
        new = disk.count - mirror.total
        if not 0 <= new <= ended or (clean and new != ended):
            watch.fail(f"the disk has {new} units of {name} in this life, of {ended} that have ended")
        if disk.count < self._told.get(name, 0):
            watch.fail(f"{name} has answered {self._told[name]}, and the disk has {disk.count}")
        lasting, lost = self._lasting(name, disk)
        for unit in lasting:
            if unit.done:
                mirror.total += 1
                if unit.row:
                    mirror.rows[unit.line[1]] = mirror.rows.get(unit.line[1], 0) + 1
        if disk.rows != mirror.rows:
            watch.fail(f"the Table of {name} on disk is {disk.rows}, its units have made {mirror.rows}")
        handled = {unit.message for unit in lasting if unit.done}
        if len(set(disk.inbox)) != len(disk.inbox) or handled & set(disk.inbox):
            watch.fail(f"{name} has a message on disk that it has handled, or twice")
        self._owed(name, disk, letters, handled, {unit.message for unit in lost})
        return mirror

    def _owed(  # all the places where a message can be
        self, name: str, disk: _OnDisk, letters: set[Numbered], handled: set[Numbered], undone: set[Numbered]
    ) -> None:
        """What was accepted is in one place."""
        for each in sorted(each for each in self.owed if each[0][2] == name):
            places = (each in disk.inbox) + (each in letters) + (each in handled)
            if places != 1 and not self._is_done(each, undone):
                line, n = each
                self._watch.fail(f"message {n} of {line} was accepted, and is in {places} places on disk")

    def _is_done(self, each: Numbered, lost: set[Numbered]) -> bool:
        """Whether it was handled, and that was not undone by the death."""
        line, n = each
        return n <= self._watch.last.get(line, 0) and each not in self._watch.skipped and each not in lost

    def _sent(self, disks: dict[str, _OnDisk], letters: set[Numbered]) -> None:
        """What a unit has sent is on disk with it, or is not at all."""
        there = set(letters)
        for name, disk in disks.items():
            there.update(disk.inbox)
            there.update(unit.message for unit in self._lasting(name, disk)[0])
        for name, disk in disks.items():
            lasting, lost = self._lasting(name, disk)
            for unit in lasting:
                for line, n in unit.sent:
                    if line[2] in disks and (line, n) not in there:
                        self._watch.fail(f"{name} has sent message {n} of {line}, and it is not on disk")
            for unit in lost:
                for line, n in unit.sent:
                    if (line, n) in there:
                        self._watch.fail(
                            f"message {n} of {line} is on disk, the unit of {name} that sent it is not"
                        )

    def _go_back(self, name: str, disk: _OnDisk, letters: set[Numbered]) -> None:
        """What was handled and is not on disk will come again."""
        watch = self._watch
        for line, n in disk.inbox:
            if n <= watch.last.get(line, 0):
                watch.last[line] = n - 1
        again = set(disk.inbox)
        watch.skipped -= {each for each in again if each not in letters}
