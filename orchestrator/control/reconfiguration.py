"""The reconfiguration commands over the control socket (paper §3.1, DESIGN §9): each is decided, recorded, carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from orchestrator.control.requests import read
from orchestrator.control.server import Emit, Operation
from orchestrator.control.wire import BadRequest, Refused
from orchestrator.runtime.application import Application
from orchestrator.upgrade import words
from orchestrator.upgrade.ledger import TransactionView
from orchestrator.upgrade.overrides import key_of
from orchestrator.upgrade.progress import Event
from orchestrator.upgrade.reconfigure import Command, Scene, decide, hold, unhold
from orchestrator.upgrade.records import Held, Overridden, Unheld
from orchestrator.upgrade.service import module_states
from orchestrator.upgrade.states import AlreadySo, CommandRefused, Verb
from orchestrator.upgrade.upgrader import Upgrader


class _Order(msgspec.Struct):
    name: str
    module: str = ""  # bind: the module that gets the name
    package: str = ""  # load
    version: str = ""  # load, swap
    disabled: bool = False  # load
    who: str = "somebody"
    reason: str = ""


class _Hold(msgspec.Struct):
    name: str = ""
    who: str = "somebody"
    reason: str = ""


class Reconfiguration:
    """Changes the running set by hand, one command after the other."""

    def __init__(self, app: Application, upgrader: Upgrader) -> None:
        self._app = app
        self._upgrader = upgrader
        self._turn = asyncio.Lock()

    def table(self) -> dict[str, Operation]:
        """Operation name → coroutine function."""
        verbs: dict[str, Operation] = {verb.value: partial(self._command, verb) for verb in Verb}
        return {**verbs, "hold": self._hold, "unhold": self._unhold}

    async def _command(self, verb: Verb, request: dict[str, object], emit: Emit) -> object:
        asked = read(request, _Order)
        _reasoned(verb.value, asked.reason)
        async with self._turn:
            try:
                facts = decide(_command(verb, asked), await self._scene())
            except AlreadySo as error:
                return _answer(asked.name, "unchanged", str(error))
            except CommandRefused as error:
                raise Refused(str(error)) from error
            return await self._carry_out(asked.name, facts, emit)

    async def undo(self, commands: Sequence[Command], reason: str, txn: int, emit: Emit) -> object:
        """Carry out the commands that take back a transaction; its outcome, as of tags. Raises Refused."""
        told = []
        async with self._turn:
            for command in commands:
                asked = replace(command, why=reason, reverts=txn)
                try:
                    facts = decide(asked, await self._scene())
                    done: Any = await self._carry_out(command.module, facts, emit)
                except AlreadySo as error:
                    done = _answer(command.module, "unchanged", str(error))
                except CommandRefused as error:
                    raise Refused(str(error)) from error
                verdict = "live" if done["verdict"] == "done" else done["verdict"]
                told.append({"tag": command.text, "verdict": verdict, "text": done["text"]})
        return {"tags": told}

    async def _scene(self) -> Scene:
        """What is so now: the tags are read anew, as a command is made against what they give."""
        upgrader = self._upgrader
        await upgrader.passed(upgrader.look(push_over=True))
        if upgrader.trouble:
            raise Refused(f"Nothing was changed: {upgrader.trouble}")
        ledger, outlook = upgrader.book.ledger, upgrader.outlook
        states = module_states(self._app, ledger, upgrader.kept.keys(), switching=upgrader.switching)
        return Scene(ledger, outlook.refs, outlook.tags, outlook.overruled, states)

    async def _carry_out(self, name: str, facts: Sequence[Overridden], emit: Emit) -> object:
        """Record the overrides, then let the upgrader do what they ask for; returns once it is decided."""
        upgrader = self._upgrader
        first = upgrader.book.ledger.next_txn
        for fact in facts:
            upgrader.book.append(fact)
        await upgrader.book.flush()

        def listen(event: Event) -> None:
            if any(tag.startswith("livetag ") for tag in event.tags):
                emit({"tag": " ".join(event.tags), "phase": event.phase, "text": event.text})

        with upgrader.progress.listening(listen):
            await upgrader.passed(upgrader.look(push_over=True))
        return self._outcome(name, facts, self._transaction(first, facts))

    def _transaction(self, first: int, facts: Sequence[Overridden]) -> TransactionView | None:
        keys = {key_of(fact.module, fact.what, fact.value) for fact in facts}
        views = self._upgrader.book.ledger.transactions
        found = [view for number, view in views.items() if number >= first and keys & set(view.overrides)]
        return found[-1] if found else None

    def _outcome(self, name: str, facts: Sequence[Overridden], view: TransactionView | None) -> object:
        ledger = self._upgrader.book.ledger
        holding = [
            o for f in facts if (o := ledger.overrides.get(key_of(f.module, f.what, f.value))) is not None
        ]
        if view is not None and view.outcome == "committed":
            return _answer(name, "done", words.commanded(view, holding), view.id)
        if view is not None and view.outcome == "rolled_back":
            raise Refused(words.not_commanded(view))
        trouble = self._upgrader.trouble or self._upgrader.book.journal.failed
        if trouble:
            raise Refused(f"It is recorded, and not done yet: {trouble}")
        if holding:
            return _answer(name, "done", f"{name} is {holding[-1].said}.")
        raise Refused(
            f"{name}: nothing was changed; the tags and this command do not fit together. See livetag plan."
        )

    async def _hold(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Hold)
        _reasoned("hold", asked.reason)
        async with self._turn:
            scene = await self._scene()
            return await self._record(asked, partial(hold, asked.name, asked.who, asked.reason, scene))

    async def _unhold(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Hold)
        async with self._turn:
            scene = await self._scene()
            answer = await self._record(asked, partial(unhold, asked.name, asked.who, asked.reason, scene))
            await self._upgrader.passed(self._upgrader.look(push_over=True))
            return answer

    async def _record(self, asked: _Hold, fact: partial[Held] | partial[Unheld]) -> object:
        try:
            made = fact()
        except AlreadySo as error:
            return _answer(asked.name, "unchanged", str(error))
        except CommandRefused as error:
            raise Refused(str(error)) from error
        await self._upgrader.book.write(made)
        return _answer(asked.name, "done", words.held(made))


def _command(verb: Verb, asked: _Order) -> Command:
    if verb is Verb.BIND:
        return Command(verb, asked.module, asked.name, who=asked.who, why=asked.reason)
    if verb is Verb.UNBIND:
        return Command(verb, "", asked.name, who=asked.who, why=asked.reason)
    value = asked.version if verb is Verb.SWAP else asked.package
    version = asked.version if verb is Verb.LOAD else ""
    return Command(verb, asked.name, value, version, asked.disabled, asked.who, asked.reason)


def _reasoned(verb: str, reason: str) -> None:
    if not reason.strip():
        raise BadRequest(
            f"livetag {verb} needs a reason: it is shown as long as it holds. Add --reason TEXT."
        )


def _answer(name: str, verdict: str, text: str, txn: int | None = None) -> dict[str, object]:
    return {"name": name, "verdict": verdict, "text": text, "transaction": txn}
