"""Reconfiguration commands, pushes and messages at random, against a small model that a page can hold.

Everything is real but the process: the upgrader on a real store and a real journal, and the commands as the socket calls
them. The model knows versions, names, and who is in service; it knows nothing of plans, overrides or transactions.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.control.reconfiguration import Reconfiguration
from orchestrator.control.wire import Refused
from orchestrator.runtime.errors import UnknownName
from orchestrator.upgrade.ledger import fold
from orchestrator.upgrade.overrides import Override
from tests.runtime_kit import books_balance, idle, state_of
from tests.stories.deployment import Deployment
from tests.test_upgrader import upgrading

MODULES = (
    "counter",
    "other",
    "second",
)  # `second` is made from the package `counter`, when somebody loads it
NAMES = ("front", "back")
CODE = """
    from livetag import Module, handles

    class Counter(Module):
        version_number = {number}

        def initial_state(self):
            return {{"notes": []}}

        @handles
        def note(self, n: int) -> int:
            self.state["notes"].append(n)
            return self.version_number
"""


@dataclass
class Row:
    """What the model knows of a module that is loaded."""

    version: int
    enabled: bool = True
    by_hand: bool = False  # swapped to a version that the tags do not give


@dataclass
class Model:
    """What should be so."""

    newest: dict[str, int] = field(default_factory=lambda: {"counter": 0, "other": 0})
    live: dict[str, Row] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[int]] = field(default_factory=dict)  # what each has noted, loaded or not
    held: bool = False

    def package(self, module: str) -> str:
        return "counter" if module == "second" else module

    def release(self, package: str) -> None:
        """The newest version of a package goes live wherever it is used, and ends what was done by hand."""
        for module in MODULES:
            if self.package(module) == package and (module in self.live or module == package):
                self.live[module] = Row(self.newest[package])
                for name in [n for n, m in self.names.items() if m == module]:
                    del self.names[name]


class Commands(RuleBasedStateMachine):
    """One application; a rule is something that a person does."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.sent = 0
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.store = Deployment(Path(self.folder.name))
        self.scene = self.wait(self.stack.enter_async_context(upgrading(self.store)))
        self.commands = Reconfiguration(self.scene.app, self.scene.upgrader).table()
        for package in ("counter", "other"):
            self.push(package)

    def teardown(self) -> None:
        self.wait(self.stack.aclose())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def do(self, op: str, **arguments: object) -> str:
        """Run a command; its verdict, `refused` if it was."""
        request = {"op": op, "who": "ada", "reason": "a reason", **arguments}
        try:
            answer: Any = self.wait(self._called(op, request))
        except Refused:
            return "refused"
        return str(answer["verdict"])

    async def _called(self, op: str, request: dict[str, object]) -> object:
        return await self.commands[op](request, lambda _event: None)

    # -- what a person does ----------------------------------------------------------------------------------------

    @rule(package=st.sampled_from(["counter", "other"]))
    def push(self, package: str) -> None:
        model, version = self.model, self.model.newest[package] + 1
        model.newest[package] = version
        self.store.write(package, CODE.format(number=version))
        tag = f"{package}/v1.{version}.0"
        self.store.release(tag)
        self.store.git("fetch", "-q", str(self.store.work.path), f"refs/tags/{tag}:refs/tags/{tag}")
        self.wait(self.scene.look())
        if not model.held:
            model.release(package)

    @rule(module=st.sampled_from(MODULES))
    def disable(self, module: str) -> None:
        row = self.model.live.get(module)
        expected = (
            "done" if row is not None and row.enabled else "unchanged" if row is not None else "refused"
        )
        assert self.do("disable", name=module) == expected
        if row is not None:
            row.enabled = False

    @rule(module=st.sampled_from(MODULES))
    def enable(self, module: str) -> None:
        row = self.model.live.get(module)
        expected = (
            "unchanged" if row is not None and row.enabled else "done" if row is not None else "refused"
        )
        assert self.do("enable", name=module) == expected
        if row is not None:
            row.enabled = True

    @rule(module=st.sampled_from(MODULES), version=st.integers(1, 3))
    def swap(self, module: str, version: int) -> None:
        row, there = self.model.live.get(module), version <= self.model.newest[self.model.package(module)]
        so = row is not None and there and row.version == version
        expected = "unchanged" if so else "done" if row is not None and there else "refused"
        assert self.do("swap", name=module, version=f"1.{version}.0") == expected
        if row is not None and there:
            row.version = version

    @rule(module=st.sampled_from(MODULES))
    def unload(self, module: str) -> None:
        gone = module not in self.model.live and (module != "second" or module in self.model.notes)
        expected = "done" if module in self.model.live else "unchanged" if gone else "refused"
        assert self.do("unload", name=module) == expected
        if self.model.live.pop(module, None) is not None:
            self.model.notes.setdefault(module, [])
            self.model.names = {n: m for n, m in self.model.names.items() if m != module}

    @rule(module=st.sampled_from(MODULES))
    def load(self, module: str) -> None:
        model, package = self.model, self.model.package(module)
        expected = "unchanged" if module in model.live else "done"
        assert self.do("load", name=module, package=package) == expected
        model.live.setdefault(module, Row(model.newest[package]))

    @rule(name=st.sampled_from(NAMES), module=st.sampled_from(MODULES))
    def bind(self, name: str, module: str) -> None:
        model = self.model
        so = module in model.live and model.names.get(name) == module
        expected = "unchanged" if so else "done" if module in model.live else "refused"
        assert self.do("bind", name=name, module=module) == expected
        if module in model.live:
            model.names[name] = module

    @rule(name=st.sampled_from(NAMES))
    def unbind(self, name: str) -> None:
        expected = "done" if name in self.model.names else "refused"
        assert self.do("unbind", name=name) == expected
        self.model.names.pop(name, None)

    @rule(name=st.sampled_from([*MODULES, *NAMES]))
    def send(self, name: str) -> None:
        module = self.model.names.get(name, name)
        row = self.model.live.get(module)
        try:
            number = self.wait(self._noted(name))
        except UnknownName:
            assert row is None or not row.enabled
            return
        assert row is not None
        assert (row.enabled, row.version) == (True, number)
        self.model.notes.setdefault(module, []).append(self.sent)
        self.sent += 1

    async def _noted(self, name: str) -> int:
        return int(await self.scene.app.ask(name, "note", {"n": self.sent}))

    @precondition(lambda self: not self.model.held)
    @rule()
    def hold(self) -> None:
        assert self.do("hold") == "done"
        self.model.held = True

    @precondition(lambda self: self.model.held)
    @rule()
    def unhold(self) -> None:
        before = {m: self.scene.book.ledger.table[m].tag for m in self.scene.book.ledger.table}
        overridden = {o.module: o for o in self.scene.book.ledger.overrides.values()}
        assert self.do("unhold") == "done"
        self.model.held = False
        for package, version in self.model.newest.items():
            tag = f"{package}/v1.{version}.0"
            if stale(before.get(package), overridden.get(package), tag):
                self.model.release(package)

    # -- what is so ------------------------------------------------------------------------------------------------

    @invariant()
    def the_application_is_what_the_model_says(self) -> None:
        app, ledger, model = self.scene.app, self.scene.book.ledger, self.model
        self.wait(idle(app))
        table = {name: (int(e.version.split(".")[1]), e.enabled) for name, e in ledger.table.items()}
        assert table == {name: (row.version, row.enabled) for name, row in model.live.items()}
        names = {name: module for name, module in app.names.names().items() if name in NAMES}
        assert names == {n: m for n, m in model.names.items() if model.live[m].enabled}
        for module in model.live:
            assert state_of(app, module)["notes"] == model.notes.get(module, []), module
        assert books_balance(app)
        assert len(app.letters) == 0

    @invariant()
    def the_journal_tells_the_same(self) -> None:
        assert fold(self.scene.journal.records()) == self.scene.book.ledger
        assert self.scene.book.ledger.unfinished is None
        assert not self.scene.book.ledger.quarantine


def stale(live: str | None, override: Override | None, tag: str) -> bool:
    """Whether a release was pushed during the hold that neither serves nor is what the override was made against."""
    if override is not None:
        return override.against is None or override.against[0] != tag
    return live != tag


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Commands,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_commands_pushes_and_messages_at_random_do_what_the_model_says() -> None:
    run(examples=4, steps=15)


@pytest.mark.skipif("LIVETAG_SLOW" not in os.environ, reason="takes minutes; LIVETAG_SLOW=1 runs it")
def test_the_same_for_longer() -> None:
    run(examples=60, steps=40)
