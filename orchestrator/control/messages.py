"""Messages over the control socket: send, ask, publish, dead letters, and a look at a module's state (DESIGN §9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from orchestrator.control import facts, tables
from orchestrator.control.requests import read
from orchestrator.control.server import Emit
from orchestrator.control.wire import BadRequest, Refused
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import BodyRefused, HandlerFailed, UnknownMessage

SEND_TIMEOUT_S = 5.0


class _Name(msgspec.Struct):
    name: str
    path: str | None = None


class _Message(msgspec.Struct):
    name: str
    type: str
    body: Any = None  # Any: a body is the author's data
    timeout_s: float = SEND_TIMEOUT_S
    wait_s: float = 0.0


class _Publication(msgspec.Struct):
    topic: str
    body: Any = None


class _Letters(msgspec.Struct):
    action: str
    id: int | None = None


class Messages:
    """The way in from outside: what is refused here was not accepted."""

    def __init__(self, app: Application, why_out: Callable[[str], str] = lambda _name: "") -> None:
        """`why_out` says why a module is not there, and what to do; empty where it has never been."""
        self._app = app
        self._why_out = why_out

    async def state(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Name)
        proxy = self._app.modules.get(asked.name) or self._app.names.resolve(
            asked.name
        )  # one that is disabled, too
        implementation = proxy.implementation
        if implementation is None:
            raise Refused(f"{asked.name} has no implementation in service. Look at livetag status.")
        return await tables.part_of_module(implementation.state, proxy.tables, asked.path, asked.name)

    async def send(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Message)
        await self._app.bound(asked.name, asked.wait_s)
        self._fits(asked)
        number = await self._app.send(asked.name, asked.type, asked.body, timeout_s=asked.timeout_s)
        return {"id": number}

    async def ask(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Message)
        self._fits(asked)
        try:
            reply = await self._app.ask(asked.name, asked.type, asked.body, timeout_s=asked.timeout_s)
        except HandlerFailed as error:
            raise Refused(
                f"{error}. {asked.name} serves on; the message is in the dead letters: livetag dead-letters list."
            ) from error
        return facts.plain(reply)

    async def publish(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Publication)
        if not asked.topic.isprintable() or asked.topic.strip(" *") != asked.topic or not asked.topic:
            raise BadRequest(
                f"{asked.topic!r} is no topic to publish to. Topics are dotted words, e.g. clock.second; "
                "a * is for those who subscribe."
            )
        _plain(asked.body)
        return {"subscribers": await self._app.publish(asked.topic, asked.body)}

    def _fits(self, asked: _Message) -> None:
        """Refuse at the door what the module in service would refuse: nothing was accepted then."""
        why = self._why_out(asked.name) if self._app.names.find(asked.name) is None else ""
        if why:
            raise Refused(f"{why}. Nothing was sent.")
        proxy = self._app.names.resolve(asked.name)
        _plain(asked.body)
        message = self._app.message(asked.type, asked.body, "")
        try:
            proxy.check(message)
        except (UnknownMessage, HandlerFailed) as error:
            raise Refused(f"{error}. Nothing was sent.") from None
        except BodyRefused as error:
            implementation = proxy.implementation
            schema = (
                implementation.blueprint.handlers[asked.type].schema if implementation is not None else {}
            )
            raise Refused(
                f"{error}. Nothing was sent. It takes {facts.fields(schema)}; on the command line n=1 is a text and "
                "n:=1 a number."
            ) from None

    async def dead_letters(self, request: dict[str, object], _emit: Emit) -> object:
        asked = read(request, _Letters)
        if asked.action == "list":
            return [facts.letter(letter) for letter in self._app.letters]
        if asked.action not in {"retry", "drop"}:
            raise BadRequest(f"dead_letters: no action {asked.action!r}; there are list, retry and drop.")
        numbers = [letter.number for letter in self._app.letters] if asked.id is None else [asked.id]
        return {asked.action: [await self._act_on_letter(number, asked.action) for number in numbers]}

    async def _act_on_letter(self, number: int, action: str) -> int:
        letter = next((x for x in self._app.letters if x.number == number), None)
        if letter is None:
            raise Refused(
                f"There is no dead letter {number}; livetag dead-letters list shows those there are."
            )
        if action == "retry":
            await self._app.give_again(letter, SEND_TIMEOUT_S)
        else:
            await self._app.drop(letter)
        return number


def _plain(body: object) -> None:
    """Refuse what could not be kept over a stop of the host, before it is accepted. Raises Refused."""
    try:
        msgspec.msgpack.encode(body)
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise Refused(f"The body is not plain data: {error}. Nothing was sent.") from None
