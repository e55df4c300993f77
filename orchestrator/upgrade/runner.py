"""Runs one transaction at a time to its end, whole, and sees off the versions that leave service by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from orchestrator.runtime.application import Application
from orchestrator.runtime.retirement import Remains
from orchestrator.upgrade.book import Book
from orchestrator.upgrade.incoming import KeptState
from orchestrator.upgrade.leavers import keep, left_images
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction


class Runner:
    """`kept` is the state of modules that are not loaded; `retired` is told what there is to prove gone."""

    def __init__(
        self,
        app: Application,
        book: Book,
        kept: dict[str, KeptState],
        retired: Callable[[Sequence[Remains]], None],
    ) -> None:
        self._app = app
        self._book = book
        self._kept = kept
        self._retired = retired
        self._retiring: set[asyncio.Task[None]] = set()
        self.running: UpgradeTransaction | None = None  # or the last one

    @property
    def switching(self) -> bool:
        """Whether the transaction under way has switched in memory, and its decision is not on disk yet (DESIGN P5)."""
        running, unfinished = self.running, self._book.ledger.unfinished
        return (
            running is not None
            and running.switched
            and unfinished is not None
            and unfinished.id == running.txn
        )

    async def run(self, transaction: UpgradeTransaction, participants: Sequence[Participant]) -> Outcome:
        """Carry it out, and keep what is to be kept of what it removed.

        Raises what the transaction raises, and CancelledError when the host is stopping: whole, all the same.
        """
        self.running = transaction
        outcome, stopping = await self._run(transaction)
        seen_off = asyncio.ensure_future(self._see_off(transaction, participants, outcome))
        while not seen_off.done():
            try:
                await asyncio.shield(seen_off)
            except asyncio.CancelledError:  # what left is in no image of the host's: its state would be lost
                stopping = True
        seen_off.result()
        if stopping:
            raise asyncio.CancelledError
        return outcome

    async def _see_off(
        self, transaction: UpgradeTransaction, participants: Sequence[Participant], outcome: Outcome
    ) -> None:
        left = await left_images(participants) if outcome.result == "committed" else []
        self._retire(transaction, outcome)
        await keep(self._app, self._book, self._kept, left)

    async def _run(self, transaction: UpgradeTransaction) -> tuple[Outcome, bool]:
        """Run it in a task of its own, so that a stop of the host ends it as the protocol says: whole.

        True: the host is stopping. What the outcome asks for at once is still to be done, nothing more.
        """
        running = asyncio.ensure_future(transaction.run())
        try:
            return await asyncio.shield(running), False
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait([running])
            if running.cancelled() or running.exception() is not None:
                raise
            return running.result(), True

    def _retire(self, transaction: UpgradeTransaction, outcome: Outcome) -> None:
        async def retire() -> None:
            self._retired(await transaction.retire(outcome))

        task = asyncio.ensure_future(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def stop(self) -> None:
        """Wait until the versions that left service have stopped."""
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=5.0)
