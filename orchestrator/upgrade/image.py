"""The image: state and mailboxes of all modules, saved at a clean stop and given back at the next start (DESIGN §6, P2)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from loguru import logger

from orchestrator.runtime.application import Application
from orchestrator.runtime.at_once import at_once
from orchestrator.runtime.errors import StateInvalid
from orchestrator.runtime.letters import decode_letter, encode_letter
from orchestrator.runtime.message import Message, decode_message, encode_message
from orchestrator.runtime.proxy import ModuleProxy
from orchestrator.runtime.rest import Resting
from orchestrator.runtime.slices import in_slices
from orchestrator.runtime.table_image import saving
from orchestrator.runtime.table_sweep import finishing
from orchestrator.upgrade.durable_rows import DurableImage
from orchestrator.upgrade.incoming import KeptState
from orchestrator.upgrade.journal import ModuleImage
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import Entry

LETTERS = "*dead-letters"  # no module can have this name


class _StoredLetter(msgspec.Struct, frozen=True, array_like=True):
    number: int
    module: str
    message: bytes
    reason: str
    at: float


_LETTERS = msgspec.msgpack.Decoder(list[_StoredLetter])


def take_image(app: Application, table: Mapping[str, Entry]) -> list[ModuleImage]:
    """State and waiting messages of every module in memory, and the dead letters. Empties the mailboxes.

    What durable modules have done is on disk when this returns; what waited for that has left, and is in the image.
    A module whose state is not plain data is left out, loudly: its author broke DESIGN §5. What waited for it goes
    to the dead letters, so that it is not lost with the state (P2). Durable modules begin no unit after it.
    """
    app.durability.finish()
    for proxy in app.modules.values():
        proxy.outbox.hand_in()
    images = []
    for name, proxy in app.modules.items():
        if proxy.keeps:
            # All of it is on disk already. No unit of it begins any more: what that sent to a module in memory would
            # be in no image, and the unit would not be done again.
            proxy.held = Resting("the host is stopping")
            continue
        try:
            images.append(_module_image(proxy, table[name].package))
        except (StateInvalid, KeyError) as error:
            waiting = list(proxy.mailbox.drain())
            logger.bind(module=name).error(
                "the state of {} was not saved: {} It begins anew at the next start; {} messages that waited for it "
                "are in the dead letters.",
                name,
                error,
                len(waiting),
            )
            for message in waiting:
                reason = f"the host stopped, and {name} could not be kept: {error}"
                app.letters.add(name, message, reason, app.clock.wall())
    images.append(ModuleImage(LETTERS, "", 1, _encode_letters(app), ()))
    return images


def _module_image(proxy: ModuleProxy, package: str) -> ModuleImage:
    implementation = proxy.implementation
    if implementation is None:
        raise StateInvalid("it has no implementation in service")
    state = implementation.blueprint.codec.encode(implementation.state)
    messages = []
    for message in proxy.mailbox.drain():
        try:
            messages.append(encode_message(message))
        except (TypeError, ValueError, OverflowError) as error:
            reason = f"its body is not plain data, so it could not be kept over the stop: {error}"
            proxy.app.letters.add(proxy.name, message, reason, proxy.app.clock.wall())
    at_once(finishing(proxy.tables))  # the steps may not be there at the next start
    return ModuleImage(
        proxy.name,
        package,
        implementation.blueprint.state_version,
        state,
        tuple(messages),
        tables=at_once(saving(proxy.tables)),
    )


def unsavable(app: Application) -> dict[str, str]:
    """Which states a stop would lose now, module → why: what is not plain data cannot be saved."""
    found = {}
    for name, proxy in app.modules.items():
        if proxy.implementation is not None:
            try:
                proxy.implementation.blueprint.codec.encode(proxy.implementation.state)
            except StateInvalid as error:
                found[name] = str(error)
    return found


async def left_image(participant: Participant) -> ModuleImage | None:
    """State and tables of a module that was removed; None if it was not, or its state is not plain data."""
    old, before = participant.old, participant.change.before
    if participant.change.after is not None or old is None or before is None:
        return None
    try:
        state = old.blueprint.codec.encode(old.state)
    except StateInvalid as error:
        logger.bind(module=participant.name).error(
            "the state of {} was not kept: {}", participant.name, error
        )
        return None
    tables = participant.proxy.tables
    await in_slices(finishing(tables))
    if participant.proxy.durable is not None:
        participant.proxy.durable.write_converted()
    saved = await in_slices(saving(tables))
    # Its connections end with it: a state that names them hears of that when it comes back.
    ended = participant.proxy.intakes.sources.endings(old.blueprint, f"{participant.name} was removed")
    told = tuple(encode_message(message) for message in ended)
    return ModuleImage(
        participant.name, before.package, old.blueprint.state_version, state, told, tables=saved
    )


def _encode_letters(app: Application) -> bytes:
    stored = []
    for letter in app.letters:
        if letter.durable:
            continue
        try:
            stored.append(
                _StoredLetter(letter.number, letter.module, encode_letter(letter), letter.reason, letter.at)
            )
        except (TypeError, ValueError, OverflowError) as error:
            logger.bind(module=letter.module).error(
                "dead letter {} could not be kept: {}", letter.number, error
            )
    return msgspec.msgpack.encode(stored)


def restore_letters(app: Application, image: ModuleImage) -> None:
    """Give back the dead letters of the run before."""
    stored = _LETTERS.decode(image.state)
    app.letters.restore(decode_letter(s.number, s.module, s.message, s.reason, s.at) for s in stored)


def kept_state(image: ModuleImage) -> KeptState:
    """What a module gets back."""
    messages = tuple(decode_message(m) for m in image.mailbox)
    return KeptState(image.state_version, image.state, messages, image.tables)


def stored_state(image: DurableImage) -> KeptState:
    """What a durable module gets back from its rows."""
    return KeptState(image.state_version, image.state, image.messages, image.tables, stored=True)


def newest_id(images: Mapping[str, ModuleImage]) -> int:
    """The highest message id that the images hold, so that new ones go on above it."""
    found: list[Message] = [decode_message(m) for image in images.values() for m in image.mailbox]
    return max((message.id for message in found), default=0)
