"""The start of a host: its modules brought back from journal and stage; interpreter, Git and socket are not in it.

Usage: starts FOLDER host | asyncio
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from time import perf_counter_ns

from tests.benchmarks.ours.loop import new_loop, on
from tests.benchmarks.peers.answer import Measured, answer
from tests.durable_kit import Disk, Life, life

MODULE = """
    from livetag import Module, handles, subscribes

    class Counter(Module):
        def initial_state(self):
            return {"total": 0}

        @handles
        def tick(self) -> int:
            self.state["total"] += 1
            return self.state["total"]

        @subscribes("news")
        def on_news(self, n: int) -> None:
            self.state["total"] += n
"""


class Starts:
    """A deployment for each number of modules, each module a package of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self, modules: int) -> Measured:
        """From the opened journal until all modules handle messages."""
        folder = self._folder / str(modules)
        if not folder.exists():
            folder.mkdir(parents=True)
            async with life(folder) as it:
                if modules:
                    await it.deploy("1.0.0", {f"m{number}": MODULE for number in range(modules)})
                await it.stopped()
        it = Life(folder, folder / "journal.db", Disk())
        began = perf_counter_ns()
        await it.begin()
        took = perf_counter_ns() - began
        assert len(it.app.modules) == modules
        await it.stopped()
        await it.close()
        return {"start": [took]}


def main() -> None:
    loop = new_loop(sys.argv[2])
    asyncio.set_event_loop(loop)
    starts = Starts(Path(sys.argv[1]))
    answer({"start": on(loop, starts.start)})


if __name__ == "__main__":
    main()
