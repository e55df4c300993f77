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


def test_it_tells_whether_any_module_code_had_run(tmp_path: Path) -> None:
    path = tmp_path / "box"
    assert BlackBox(path).last() is None
    for loads in (False, True):
        box = BlackBox(path)
        box.begin()
        if loads:
            with box.during("counter", "being loaded"):
                pass
        found = BlackBox(path).last()  # as a kill now would leave it
        assert found is not None
        assert (found.loaded, found.module) == (loads, None)
        box.close()


def test_a_page_that_cannot_be_written_tells_of_no_earlier_host(tmp_path: Path) -> None:
    path = tmp_path / "box"
    path.symlink_to(tmp_path / "gone" / "box")  # which opens for nobody, root included
    box = BlackBox(path)
    box.begin()
    assert not path.is_symlink()
    assert box.last() is None
    box.close()
