"""A host that stops does not wait for proof that a version is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.upgrade.retirements import Retirements
from tests.runtime_kit import until
from tests.swapping import Swapper, with_swapper

PLAIN = "from livetag import Module\nclass Plain(Module): ...\n"


def test_a_stop_ends_the_proof_of_a_version_that_is_still_held(tmp_path: Path) -> None:
    async def story(swapper: Swapper) -> None:
        retirements = Retirements(swapper.app, (0.0, 3600.0))
        await swapper.swap(swapper.write("plain", "1.0.0", {"__init__.py": PLAIN}))
        held = swapper.app.modules["plain"].implementation
        left = await swapper.swap(swapper.write("plain", "2.0.0", {"__init__.py": PLAIN}))
        retirements.begin(left)
        await asyncio.wait_for(retirements.stop(), 20.0)
        assert held is not None
        assert (retirements.proven, retirements.leftovers) == (0, [])

    with_swapper(tmp_path, story)


def test_what_has_begun_is_proven_beside_its_caller(tmp_path: Path) -> None:
    async def story(swapper: Swapper) -> None:
        retirements = Retirements(swapper.app, (0.0, 0.01, 0.05, 0.2))
        await swapper.swap(swapper.write("plain", "1.0.0", {"__init__.py": PLAIN}))
        retirements.begin(await swapper.swap(swapper.write("plain", "2.0.0", {"__init__.py": PLAIN})))
        assert retirements.proven == 0
        await until(lambda: retirements.proven == 1)
        await retirements.stop()

    with_swapper(tmp_path, story)
