"""What is kept of a module that was removed, for its return (DESIGN §4): in an image, or in the rows that it has on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import DurabilityLost
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.durable_switch import inbox_rows
from orchestrator.upgrade.image import kept_state, left_image
from orchestrator.upgrade.incoming import KeptState
from orchestrator.upgrade.journal import ModuleImage
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import ImageSaved


async def left_images(participants: Sequence[Participant]) -> list[tuple[ModuleImage, bool]]:
    """What is kept of the modules that were removed, and whether it is on disk already."""
    return [(image, p.was_durable) for p in participants if (image := await left_image(p)) is not None]


async def keep(
    app: Application, book: Book, kept: dict[str, KeptState], left: Sequence[tuple[ModuleImage, bool]]
) -> None:
    """Write what is not on disk yet, and note all of it in `kept`. Raises JournalFailed."""
    images = [image for image, stored in left if not stored]
    if images:
        await book.write(ImageSaved(tuple(image.name for image in images)), images)
        kept.update({image.name: kept_state(image) for image in images})
    for image, stored in left:
        if stored:
            state = kept_state(image)
            messages = inbox_rows(app, image.name, state.messages)
            kept[image.name] = replace(state, messages=messages, stored=True)
    with suppress(DurabilityLost):  # the journal has failed, which is said elsewhere
        await app.durability.settled()
