"""Many swaps in a row: nothing grows, neither threads nor descriptors nor modules nor memory (issue: under 2 kB a swap)."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.runtime.collecting import no_collection
from orchestrator.upgrade.retirements import Retirements
from tests.swapping import Swapper, with_swapper
from tests.test_retirement import FILES, used

BYTES_A_SWAP_MAX = 1_000
BLOCKS_A_SWAP_MAX = 1  # a class that stays is some thirty
# Python 3.10 gives each function a cache at its 1,024th call (OPCACHE_MIN_RUNS in its ceval.c), two blocks that stay:
# some 700 functions run once with each swap, and 1,400 blocks would be taken for 1.4 a swap. (100 functions that only
# return a builtin: 12 blocks for 1,000 calls of each, 201 for the next 100, 2 for 1,000 more; on 3.11 and 3.13, none.)
# Later ones take their last MB from the system, once, some 250 swaps after the start.
WARM_UP_SWAPS = 1_100 if sys.version_info < (3, 11) else 400
COME_AND_GO = ("asyncio_", "livetag-load")  # the executor's, which are bounded; the one that is just loading


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    threads: int
    descriptors: int
    modules: int
    finders: int
    blocks: int
    resident_bytes: int

    @classmethod
    def now(cls) -> Footprint:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            len([t for t in threading.enumerate() if not t.name.startswith(COME_AND_GO)]),
            len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # names only
            len(sys.modules),
            len(sys.meta_path),
            sys.getallocatedblocks(),
            pages * os.sysconf("SC_PAGESIZE"),
        )


def swapping(swapper: Swapper) -> tuple[Retirements, Callable[[int], Awaitable[None]]]:
    """Two releases, and a function that swaps them so many times, in turn, with each proven gone."""
    retirements = Retirements(swapper.app, (0.0, 0.01, 0.05, 0.2))
    releases = [swapper.write("rich", f"{n}.0.0", FILES) for n in (1, 2)]

    async def swap(count: int) -> None:
        for number in range(count):
            for remains in await swapper.swap(releases[number % 2]):
                assert await retirements.prove(remains), retirements.leftovers
            await used(swapper, number)

    return retirements, swap


def swaps_leave_nothing(folder: Path, warm_up: int, swaps: int) -> None:
    async def story(swapper: Swapper) -> None:
        retirements, swap = swapping(swapper)
        await swap(warm_up)
        before = Footprint.now()
        await swap(swaps)
        after = Footprint.now()
        assert retirements.full_collections == 0
        assert after.threads <= before.threads
        assert after.descriptors <= before.descriptors
        assert after.modules <= before.modules
        assert after.finders == before.finders
        blocks = (after.blocks - before.blocks) / swaps
        assert blocks < BLOCKS_A_SWAP_MAX, f"{blocks:.1f} blocks more with each swap"
        grown = (after.resident_bytes - before.resident_bytes) / swaps
        assert grown < BYTES_A_SWAP_MAX, f"{grown:.0f} bytes more with each swap"

    with_swapper(folder, story)


def test_a_thousand_swaps_leave_nothing_behind(tmp_path: Path) -> None:
    """In a process of its own: the pages of a test worker also move with what other tests left there."""
    code = "import sys, pathlib; from tests.stories.test_soak import swaps_leave_nothing as run; "
    code += f"run(pathlib.Path(sys.argv[1]), {WARM_UP_SWAPS}, 1000)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_swap_leaves_no_circle_to_pythons_own_collection(tmp_path: Path) -> None:
    """A full collection stalls the loop by all that the application holds; until one comes, a circle is a leak."""

    async def story(swapper: Swapper) -> None:
        _, swap = swapping(swapper)
        await swap(4)
        with no_collection():
            gc.collect()
            await swap(10)
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                gc.collect()
                left = Counter(type(each).__name__ for each in gc.garbage)
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
        assert left.total() < 10, left

    with_swapper(tmp_path, story)
