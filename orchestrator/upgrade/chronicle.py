"""The history in Git, brought up to the journal: derived from it, and never in the way of an outcome (DESIGN §7)."""

from __future__ import annotations

from loguru import logger

from orchestrator.upgrade.book import Book
from orchestrator.upgrade.repository import Repository
from repo_store.errors import StoreError


class Chronicle:
    """Writes what the journal says to `deployments` and `refs/live/*`, as soon as Git takes it.

    `behind` says why they do not tell it yet; it is empty if they do.
    """

    def __init__(self, book: Book, repository: Repository) -> None:
        self._book = book
        self._repository = repository
        self.behind = ""

    async def catch_up(self) -> bool:
        """Write what is missing; returns False if Git did not take it, which is to be tried again. Never raises for it."""
        entries, live = self._book.history()
        if entries is None:
            return True
        try:
            await self._repository.record_history(entries, live)
        except (StoreError, OSError) as error:
            why = str(error).strip().rstrip(".")
            behind = f"the history in Git is behind the journal: {why}. livetag doctor says what to do"
            if behind != self.behind:
                logger.warning("{}; it is tried again every few seconds", behind)
            self.behind = behind
            return False
        self._book.history_written()
        self.behind = ""
        return True
