"""What brings the journal's batches to its file: a thread, so that no sync is ever on the event loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orchestrator.upgrade.journal import Journal


class Writer(Protocol):
    """Takes a batch from the journal and has it written, one after the other, until it is told of the last."""

    def wake(self) -> None:
        """Look for a batch, now or as soon as the one under way is written."""

    def join(self, timeout_s: float) -> None:
        """Return once the last batch is written, or after so many seconds."""


class WriterThread:
    """One writer thread for one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._awake = threading.Event()
        self.thread = threading.Thread(target=self._serve, name="livetag-journal", daemon=True)
        self.thread.start()

    def wake(self) -> None:
        self._awake.set()

    def join(self, timeout_s: float) -> None:
        self.thread.join(timeout_s)

    def _serve(self) -> None:
        try:
            last = False
            while not last:
                self._awake.wait()
                self._awake.clear()  # before taking the batch: a later wake is then never lost
                batch, last = self._journal.take_batch()
                if batch:
                    self._journal.write_batch(batch)
                del batch  # the next may come in hours, and this one may be the state of all modules
        finally:
            self._journal.close_file()
