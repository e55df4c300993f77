"""Lets go, in a host that runs for long, of what nobody needs any more: staged releases, commits held against `git gc`.

A start does the same, but a host may run for years, and a release that is refused is staged, too (DESIGN §4).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from orchestrator.upgrade.candidate import Candidate
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.needed import SERVED_KEPT, needed_commits, needed_trees
from orchestrator.upgrade.repository import Repository


class Tidying:
    """Tidies up each so many transactions, whatever became of them."""

    def __init__(self, repository: Repository, ledger: Ledger) -> None:
        self._repository = repository
        self._tidied = ledger.next_txn  # the start has done it

    async def look(self, ledger: Ledger, candidates: Mapping[str, Candidate]) -> None:
        """Tidy up if it is time. Called between transactions, when nothing is being staged.

        What waits to come into service stays staged, and so does what Python has loaded: it may import more of itself.
        """
        if ledger.next_txn - self._tidied < SERVED_KEPT:
            return
        self._tidied = ledger.next_txn
        staged = [candidate.folder for candidate in candidates.values() if candidate.folder is not None]
        trees = {_tree(folder) for folder in (*staged, *loaded_below(self._repository.stage_folder))}
        await self._repository.let_go(needed_commits(ledger))
        await self._repository.sweep(needed_trees(ledger) | trees)


def _tree(folder: Path) -> str:
    return folder.name.partition("-")[0]


def loaded_below(stage: Path) -> Iterator[Path]:
    """The folders of the stage that a loaded module comes from."""
    for file in _files(list(sys.modules.values())):
        path = Path(file)
        if path.is_relative_to(stage):
            yield stage / path.relative_to(stage).parts[0]


def _files(modules: Iterable[object]) -> Iterator[str]:
    for module in modules:
        file = getattr(module, "__dict__", {}).get(
            "__file__"
        )  # asks nothing of a module that loads when asked
        if isinstance(file, str):
            yield file
