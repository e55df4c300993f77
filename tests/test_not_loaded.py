"""Modules of the table that are not loaded, as they could not come back: what is said of them changes their row alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.upgrade.records import Overridden, Quarantined
from tests.stories.deployment import Deployment
from tests.test_upgrader import COUNTER, upgrading


def needs(file: Path) -> str:
    """A module that comes into service only where there is this file."""
    return f"{COUNTER}\n        async def prepare(self):\n            Path({str(file)!r}).read_text()\n"


def writes(file: Path) -> str:
    """A module that writes this file when its code is loaded."""
    return f"{COUNTER}\n    Path({str(file)!r}).touch()\n"


def test_a_composition_in_force_stays_so_where_what_cannot_come_back_is_to_be_enabled(tmp_path: Path) -> None:
    """It was put in quarantine for that, and the next worse one followed, down to none at all."""
    store, needed = Deployment(tmp_path), tmp_path / "needed"
    needed.touch()

    async def story() -> None:
        async with upgrading(store) as scene:
            store.work.write("app.toml", "[modules.picky]\n[modules.other]\nalso = ['more']\n")
            scene.release("app/v1.0.0", modules=["other"])
            scene.release("picky/v1.0.0", modules=["picky"], code=needs(needed))
            await scene.look()
            picky = scene.book.ledger.table["picky"]
            against = (picky.tag, picky.commit_id)
            await scene.book.write(Overridden("picky", "disable", "", "ada", "too picky", against))
            await scene.look()
            assert not scene.book.ledger.table["picky"].enabled
        needed.unlink()
        async with upgrading(store) as scene:  # nothing has come back in this host
            scene.release("picky/v1.0.1", modules=[])  # at the same commit: who disabled it is overruled
            await scene.look()
            table = scene.book.ledger.table
            assert (table["picky"].tag, table["picky"].enabled) == ("picky/v1.0.1", True)
            assert table["other"].also == ("more",)
            assert scene.book.ledger.quarantine == {}
            assert not scene.app.modules

    asyncio.run(story())


def test_a_name_is_taken_from_what_ended_the_host_without_any_of_its_code(tmp_path: Path) -> None:
    """It was loaded to lose a name; a death of the host in that counted for nobody, and was met again at each start.

    Its tag is in quarantine for that commit; the same code comes with the commit of the composition.
    """
    store, diary = Deployment(tmp_path), tmp_path / "diary"

    async def story() -> None:
        async with upgrading(store) as scene:
            store.work.write("app.toml", "[modules.lethal]\nalso = ['total']\n")
            scene.release("lethal/v1.0.0", "app/v1.0.0", modules=["lethal"], code=writes(diary))
            await scene.look()
            lethal = scene.book.ledger.table["lethal"]
            assert diary.exists()
        diary.unlink()
        async with upgrading(store) as scene:
            why = "the host died 2 times in a row right after its start"
            await scene.book.write(Quarantined("lethal", lethal.commit_id, lethal.tag, why, fatal=True))
            store.work.write("app.toml", "[modules.lethal]\n[modules.rib]\nalso = ['total']\n")
            scene.release("rib/v1.0.0", "app/v1.1.0", modules=["rib"])
            await scene.look()
            table = scene.book.ledger.table
            assert not diary.exists()
            assert (table["lethal"].tree_id, table["lethal"].also) == (lethal.tree_id, ())
            assert table["rib"].also == ("total",)
            assert set(scene.app.modules) == {"rib"}
            assert await scene.app.ask("total", "add", {"n": 2}) == 2

    asyncio.run(story())
