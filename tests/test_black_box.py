"""Whose code ran when the host died: noted for each unit while a start settles, and a hold on nothing."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

from livetag import Module, handles
from orchestrator.upgrade.black_box import BlackBox
from tests.runtime_kit import implement


class Counter(Module[dict[str, int]]):
    def initial_state(self) -> dict[str, int]:
        return {}

    @handles
    def tick(self, box: str) -> str:
        return Path(box).read_text(encoding="ascii")


def test_a_unit_is_noted_while_it_runs_until_the_start_has_settled(tmp_path: Path) -> None:
    box = BlackBox(tmp_path / "box")
    box.begin()
    counter = implement(Counter, "counter")
    plain = counter.handlers["tick"].call
    box.watch(counter)
    assert "handling 'tick'" in counter.handlers["tick"].call(str(tmp_path / "box"))
    box.unwatch()
    assert counter.handlers["tick"].call == plain
    assert "handling 'tick'" not in plain(str(tmp_path / "box"))
    box.close()


def test_a_version_that_leaves_before_the_start_has_settled_is_gone(tmp_path: Path) -> None:
    box = BlackBox(tmp_path / "box")
    box.begin()
    counter = implement(Counter, "counter")
    box.watch(counter)
    versions = weakref.ref(counter), weakref.ref(counter.instance)
    del counter
    gc.collect()
    assert [version() for version in versions] == [None, None]
    box.unwatch()
    box.close()
