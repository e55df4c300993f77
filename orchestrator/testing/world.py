"""The world around a module under test: whoever it speaks to, recording what is said and answering as told."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import BodyRefused, StateInvalid, UnknownName
from orchestrator.runtime.events import EventManager, Subscription
from orchestrator.runtime.message import Message
from orchestrator.runtime.names import NameService
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.state import PLAIN_STATE

RECORDER = "*recorder"


class Sent(NamedTuple):
    """A message that left the module for a name that is not part of the test."""

    name: str
    type: str
    body: object


class Published(NamedTuple):
    """An event that the module published."""

    topic: str
    body: object


class Recording:
    """What a module said to the world, and what the world answers it."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], object] = {}
        self.sent: list[Sent] = []
        self.published: list[Published] = []
        self._not_plain: list[str] = []

    def refuse(self, reason: str) -> None:
        """Remember what the module sent though it may not; the next wait of the test raises it."""
        self._not_plain.append(reason)

    def raise_refused(self) -> None:
        """Raises BodyRefused if it sent or published what is not plain data."""
        if self._not_plain:
            raise BodyRefused(self._not_plain.pop(0))


class World(NameService):
    """Every name that is not the module's own belongs to somebody who records and answers."""

    def __init__(self, app: Application, recording: Recording) -> None:
        super().__init__()
        self._app = app
        self._recording = recording
        self._others: dict[str, _Other] = {}

    def find(self, name: str) -> ModuleProxy | None:
        proxy = self.table.get(name) or self._others.get(name)
        if proxy is None:
            proxy = self._others[name] = _Other(self._app, name, self._recording)
        return proxy

    def resolve(self, name: str) -> ModuleProxy:
        proxy = self.find(name)
        if proxy is None:
            raise UnknownName(name)
        return proxy


class _Other(ModuleProxy):
    """Somebody outside the test: keeps what it is sent, answers what it was told to answer."""

    def __init__(self, app: Application, name: str, recording: Recording) -> None:
        super().__init__(app, name, 1_000_000)
        self._recording = recording

    def accept(self, message: Message, sender: ModuleProxy | None = None) -> asyncio.Future[None] | None:
        del sender
        self._keep(message)
        return None

    def _keep(self, message: Message) -> None:
        self._recording.sent.append(Sent(self.name, message.type, self._copy(message)))

    def _copy(self, message: Message) -> object:
        """The body, through encode and decode, so that an alias cannot hide."""
        try:
            return PLAIN_STATE.copy(message.body)
        except StateInvalid as error:  # raised where the test waits; here it would end the module's pump
            what = (
                f"event {message.topic!r}"
                if message.topic is not None
                else f"{message.type!r} to {self.name}"
            )
            self._recording.refuse(f"{message.sender} sent {what}, whose body is not plain data: {error}")
            return None

    async def ask(self, message: Message, timeout_s: float, sender: ModuleProxy | None = None) -> Any:
        del timeout_s
        self.accept(message, sender)
        key = (self.name, message.type)
        if key not in self._recording.answers:
            raise UnknownName(
                f"The test has no answer for {key}. Give one: run(..., answers={{{key}: reply}})."
            )
        answer = self._recording.answers[key]
        return answer(message.body) if callable(answer) else answer


class Topics(EventManager):
    """The event manager of a test: every topic has one more subscriber, who records."""

    def __init__(self, app: Application, recording: Recording) -> None:
        super().__init__()
        self._recorder = Subscription("*", _Listener(app, RECORDER, recording))

    def subscribers(self, topic: str) -> tuple[Subscription, ...]:
        return (*super().subscribers(topic), self._recorder)


class _Listener(_Other):
    """Keeps what is published."""

    def accept(self, message: Message, sender: ModuleProxy | None = None) -> asyncio.Future[None] | None:
        del sender
        self._recording.published.append(Published(message.topic or "", self._copy(message)))
        return None
