"""Who says what to whom in a release table, and what of it would not be taken (DESIGN §4, §7.1). Pure.

An *edge* is one place in a module that sends or asks, and the module that its name stands for. What is decided:
- An edge that breaks by a change makes that change wait: the other side's release may still come (DESIGN §4).
- One that was broken before, in the same way, is not this change's fault: it is said, nothing more.
- A way back is never held up by an edge, as a rollback must always be possible: it is said, loudly.
- A name that no module has is not wrong, as names are bound at run time: it is said.
- An event is for whoever wants it: one that a subscriber would not take is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.runtime.description import Description, Emit
from orchestrator.runtime.topics import topic_matches
from orchestrator.upgrade.checks import Check
from orchestrator.upgrade.shape_words import SENT
from orchestrator.upgrade.shapes import narrower


@dataclass(frozen=True, slots=True)
class Face:
    """A module as the others see it: its names, its version, and what that handles and says, if that is known."""

    name: str
    version: str
    also: tuple[str, ...] = ()
    tree_id: str = ""
    description: Description | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Edge:
    """One place that sends, and what is wrong with it in a table; `target` None: no module has the name."""

    sender: Face
    emit: Emit
    target: Face | None
    problem: str

    @property
    def key(self) -> tuple[str, ...]:
        """The same for the same fault in two tables, whichever versions have it."""
        return (self.sender.name, self.emit.how, self.emit.name, self.emit.type, self.problem)

    @property
    def modules(self) -> frozenset[str]:
        return frozenset(face.name for face in (self.sender, self.target) if face is not None)

    def __str__(self) -> str:
        emit = self.emit
        verb = {"send": "sends", "ask": "asks", "publish": "publishes"}[emit.how]
        what = f"{emit.name!r}" if emit.how == "publish" else f"{emit.type!r}"
        to = "" if emit.how == "publish" else f" of {emit.name}" if emit.how == "ask" else f" to {emit.name}"
        where = f"{emit.file} line {emit.line}" if emit.file else "its module.toml"
        return f"{self.sender} {verb} {what}{to} ({where}), {self.problem}"


Faces = Mapping[str, Face]


class Interfaces:
    """Looks at tables; a pair of an emit and a description is compared once, however many tables have it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], str] = {}
        self._held: list[object] = []  # so that an id stays the id of one thing

    def broken(self, faces: Faces) -> list[Edge]:
        """The edges of a table that would not be taken, or go to nobody."""
        names = {alias: face for face in faces.values() for alias in (*face.also, face.name)}
        found = []
        for sender in faces.values():
            for emit in sender.description.emits if sender.description is not None else ():
                if emit.how == "publish":
                    continue
                target = names.get(emit.name)
                problem = "and no module has that name" if target is None else self._problem(emit, target)
                if problem:
                    found.append(Edge(sender, emit, target, problem))
        return found

    def deaf(self, faces: Faces) -> list[Edge]:
        """The events of a table that a subscriber would not take."""
        found = []
        for sender in faces.values():
            for emit in sender.description.emits if sender.description is not None else ():
                if emit.how == "publish" and not emit.name.endswith("*"):
                    found += [
                        Edge(sender, emit, hearer, problem)
                        for hearer in faces.values()
                        for problem in _misheard(emit, hearer)
                    ]
        return found

    def _problem(self, emit: Emit, target: Face) -> str:
        """Why the target would not take it; empty if it does, or if that is not known."""
        if target.description is None:
            return ""
        key = (id(emit), id(target.description))
        if key not in self._known:
            self._held += [emit, target.description]
            self._known[key] = _problem(emit, target.description)
        found = self._known[key]
        return f"and {target} {found}" if found else ""


def _problem(emit: Emit, target: Description) -> str:
    schema = target.handles.get(emit.type)
    if schema is None:
        return f"does not handle it; it handles: {', '.join(sorted(target.handles)) or 'nothing'}"
    wrong = narrower(emit.body, schema, target.upcasts.get(emit.type, ()), SENT)
    return f"refuses the body: {'; '.join(wrong)}" if wrong else ""


def _misheard(emit: Emit, hearer: Face) -> Iterator[str]:
    description = hearer.description
    for pattern, schema in description.hears.items() if description is not None else ():
        if topic_matches(pattern, emit.name) and (wrong := narrower(emit.body, schema, (), SENT)):
            yield f"and {hearer}, which subscribes to it, refuses the body: {'; '.join(wrong)}"


def edge_checks(
    interfaces: Interfaces, before: Faces, after: Faces, going_back: Collection[str]
) -> list[Check]:
    """What changes between two tables mean for those who send: what it waits for, and what is only said."""
    old = {edge.key for edge in interfaces.broken(before)}
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    checks = []
    for edge in interfaces.broken(after):
        if edge.modules & set(going_back):
            checks.append(
                _said(
                    edge,
                    f"going back, so from then on {edge}. Such messages go to the dead letters",
                    loud=True,
                )
            )
        elif edge.target is None:
            if edge.sender.name in changed:
                checks.append(_said(edge, f"{edge}. It is an error at the sender until one has it"))
        elif edge.key not in old:
            checks.append(Check(_what(edge), False, f"{edge}. {_advice(edge, changed)}", about=edge.modules))
        elif edge.modules & changed:
            checks.append(_said(edge, f"{edge}, as before"))
    misheard = [edge for edge in interfaces.deaf(after) if edge.modules & changed]
    lost = "Such events go to the dead letters of the subscriber"
    return checks + [_said(edge, f"{edge}. {lost}") for edge in misheard]


def _said(edge: Edge, why: str, *, loud: bool = False) -> Check:
    return Check(_what(edge), True, why, loud=loud)


def _what(edge: Edge) -> str:
    emit = edge.emit
    return f"{edge.sender.name} → {emit.name}" + (f": {emit.type}" if emit.type else "")


def _advice(edge: Edge, changed: Collection[str]) -> str:
    target = edge.target.name if edge.target is not None else edge.emit.name
    if edge.sender.name in changed:
        return f"Release a {target} that takes it, before or in the same push, or change what {edge.sender.name} sends"
    return (
        f"Release a {edge.sender.name} that no longer sends that, before or in the same push, or let {target} take it "
        f'(a handler, or @upcasts("{edge.emit.type}", 1, 2) for the old shape)'
    )
