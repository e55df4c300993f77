"""One seed, one world: what it has, what happens to it, and what must hold in it at each step and at rest."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from loguru import logger

from orchestrator.runtime import application, pump, quiesce, slices, table_sweep
from orchestrator.upgrade import lookout
from orchestrator.upgrade.records import Record
from tests.simulation.actions import Drawing
from tests.simulation.checks import at_rest, steady, told
from tests.simulation.disk import Platter
from tests.simulation.life import Life
from tests.simulation.loop import Deadlock, Endless
from tests.simulation.modules import Spec
from tests.simulation.refs import Origin
from tests.simulation.watch import Watch

ERA = 3  # of what worlds draw from; what is added to it comes in a new era, so that kept seeds stay the worlds they were
LIVES_MAX = 60
LOOK_EVERY = 16  # turns of the loop between two looks at what must hold


@dataclass
class Report:
    """How a seed ended."""

    seed: int
    era: int
    problems: list[str]
    digest: str
    trace: list[str]
    actions: list[str]
    coverage: Counter[str]
    handled: int
    error: str = field(default="")

    @property
    def text(self) -> str:
        """All that is needed to understand and to replay it."""
        lines = [
            f"seed {self.seed}: {self.problems[0]}",
            f"actions: {'; '.join(self.actions)}",
            "the last of its trace:",
            *(f"  {line[:300]}" for line in self.trace[-40:]),
            *self.problems[1:],
            f"again, with the whole trace: python -m tests.simulation {self.era}:{self.seed}",
        ]
        return "\n".join(lines)


class World:
    """All that outlives a crash."""

    def __init__(self, seed: int, *, era: int = ERA, keep_all: bool = False) -> None:
        self.seed = seed
        self.era = era
        self.rng = random.Random(seed)  # noqa: S311  # drawn worlds
        self.now = 1000.0
        self.origin = Origin()
        self.watch = Watch(keep_all=keep_all)
        self.platter = Platter(told=self.watch.record)
        self.page: dict[str, Any] = {}
        self.witness = random.Random(f"witness {seed}")  # noqa: S311  # worlds without are as they were
        self.coverage: Counter[str] = Counter()
        self.crash_at: tuple[str, str, int] | None = None
        self.aim = random.Random(f"aim {seed}")  # noqa: S311  # worlds without are as they were
        self.bursts = 0
        self.poison = self.rng.choice((0, 0, 0, 5, 11))
        self.over = False  # the script has ended: no more crashes
        self.modules = [f"m{letter}" for letter in "abcde"[: self.rng.randint(2, 5)]]
        self.drawing = Drawing(self)
        self.left = self.rng.randint(4, self.rng.choice((8, 16, 40)))
        self.actions: list[str] = []
        first = self.origin.commit({name: Spec() for name in self.modules})
        self.base = dict(first.packages)
        for name in self.modules:
            self.origin.tag(f"{name}/v1.0.0", first.id)

    def root(self, name: str) -> str:
        """The package that a module of this name is made from."""
        return name[:2]

    def source_of(self, name: str) -> int:
        """The number by which a module sends."""
        return self.modules.index(self.root(name)) + (50 if len(name) > 2 else 0)

    @property
    def composed(self) -> bool:
        """Whether there has ever been a composition."""
        return any(commit.app is not None for commit in self.origin.commits.values())

    def crash_due(self, side: str, record: Record) -> bool:
        if self.crash_at is None or self.over:
            return False
        kind, where, skip = self.crash_at
        if (type(record.fact).__name__, side) != (kind, where):
            return False
        self.crash_at = None if not skip else (kind, where, skip - 1)
        return not skip

    def run(self) -> Report:
        """Live through it; raises nothing."""
        error = ""
        try:
            while not self.watch.problems and not self._live():
                if self.coverage["lives"] > LIVES_MAX:
                    self.watch.fail(f"more than {LIVES_MAX} lives")
        except (Deadlock, Endless) as stuck:
            self.watch.fail(f"{type(stuck).__name__}: {stuck}")
        self.coverage.update(self.watch.model.seen)
        self.coverage["durable"] += self.platter.rows is not None
        self.platter.close()
        return Report(
            self.seed,
            self.era,
            self.watch.problems,
            self.watch.digest,
            list(self.watch.trace),
            self.actions,
            self.coverage,
            self.watch.handled,
            error,
        )

    # -- one life ---------------------------------------------------------------------------------------------

    def _live(self) -> bool:
        """One run of the host; True: the last one, which has come to rest."""
        life = Life(self)
        self.watch.life, self.watch.floor = life, {}
        self.watch.units.begin_life()
        self.coverage["lives"] += 1
        self.watch.note("a host starts")
        main: asyncio.Task[None] = life.loop.create_task(life.main(self._script))
        turns = 0

        def over() -> bool:
            nonlocal turns
            turns += 1
            told(life)
            if turns % LOOK_EVERY == 0:
                steady(life)
            return main.done() or bool(self.watch.problems)

        with virtual(life):
            life.loop.live_until(over)
            self._after(life, main)
        return self.over and life.finished

    def _after(self, life: Life, main: asyncio.Task[None]) -> None:
        if main.done() and not main.cancelled() and main.exception() is not None and not life.loop.dead:
            self.watch.fail(f"the host ended with {main.exception()!r}")
        for error in life.loop.errors:
            self.watch.fail(f"on the loop: {error}")
        self.now = life.loop.time()
        table = self.watch.model.table
        durable = {name for name, entry in table.items() if self.origin.trees[entry.tree_id].durable}
        must = durable - self.watch.put_back
        kept = self.watch.units.end_life(self.platter.stored(), must, clean=life.clean)
        if not life.clean:
            self.watch.killed(kept)
        self.watch.muted = True
        life.loop.throw_away()
        self.watch.muted = False

    async def _script(self, life: Life) -> None:
        """The actions that are left; then rest, and look at all of it."""
        rng = self.rng
        await life.clock_sleep(rng.choice((0.01, 0.5, 3.0)))
        while self.left > 0:
            self.left -= 1
            name, act = self.drawing.action()
            self.actions.append(name)
            self.watch.note(f"action {name}")
            done = act(life)
            if done is not None:
                await done
            await life.clock_sleep(rng.choice((0.0, 0.005, 0.05, 1.0)))
            if life.over:
                return
            if life.journal.failed is not None or life.book.doubt is not None:
                await self._repair(life)
                return
        self.over = True
        life.disk.slow_s = 0.001
        life.repository.failing = life.repository.history_failing = 0
        await self._rest(life)

    async def _repair(self, life: Life) -> None:
        """The operator sees that nothing more is recorded, repairs the disk, and restarts the host."""
        self.coverage["in doubt" if life.book.doubt is not None else "disk failed"] += 1
        await life.clock_sleep(1.0)
        if self.rng.random() < 0.5:
            life.die("the operator kills a host without a journal")

    async def _rest(self, life: Life) -> None:
        for _twice in range(2):
            while not life.at_rest and life.journal.failed is None:
                await life.clock_sleep(0.5)
            await life.upgrader.passed(life.upgrader.look(push_over=True))
        if life.journal.failed is not None:  # the disk broke at the very end: once more, with a good one
            return
        at_rest(life)
        life.finished = True
        self.watch.note("at rest")


@contextmanager
def virtual(life: Life) -> Iterator[None]:
    """Within the block the product's stop-watches, the number of processors and the pid are the world's."""
    before = {module: module.perf_counter for module in (application, pump, quiesce, slices, table_sweep)}
    cpus, pid, giving = os.cpu_count, os.getpid, vars(lookout)["giving_way"]
    lives = life.world.coverage["lives"]
    for module in before:
        module.perf_counter = life.loop.perf_counter  # type: ignore[attr-defined]
    os.cpu_count = lambda: 2
    os.getpid = lambda: 1000 + lives
    vars(lookout)["giving_way"] = _nothing_to_give_way_to
    logger.disable("orchestrator")
    try:
        yield
    finally:
        for module, counter in before.items():
            module.perf_counter = counter  # type: ignore[attr-defined]
        os.cpu_count, os.getpid, vars(lookout)["giving_way"] = cpus, pid, giving
        logger.enable("orchestrator")


@asynccontextmanager
async def _nothing_to_give_way_to() -> AsyncIterator[None]:
    """A world has no threads."""
    yield
