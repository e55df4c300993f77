"""Thespian imports an actor's class again in its own process, so it has a file of its own."""

from __future__ import annotations

from thespian.actors import Actor


class Echo(Actor):  # type: ignore[misc]
    def receiveMessage(self, message: object, sender: object) -> None:  # noqa: N802
        if isinstance(message, tuple) and message[0] == "ask":
            self.send(sender, message[1])
