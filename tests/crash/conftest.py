"""Deployments to be copied, made once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.scenarios import ROLLBACK, make_base, make_upgraded
from tests.crash.victim import Scenario, Victim


class Bases:
    """The deployments that the scenarios begin from."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._base = make_base(path / "base")
        self._upgraded: Victim | None = None
        self._copies = 0

    @contextmanager
    def victim(self, scenario: Scenario) -> Iterator[Victim]:
        """A fresh copy for one run of the scenario; nothing of it outlives the block."""
        if scenario is ROLLBACK and self._upgraded is None:
            self._upgraded = make_upgraded(self._path / "upgraded", self._base)
        like = self._upgraded if scenario is ROLLBACK else self._base
        self._copies += 1
        victim = Victim(self._path / f"v{self._copies}", like)
        try:
            yield victim
        finally:
            victim.close()


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("crash"))
