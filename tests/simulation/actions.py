"""What happens to a world, drawn one thing after the other: pushes, commands, crashes, faults of disk and repository."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from repo_store.manifest import AppManifest, ModuleSpec
from repo_store.release import Tag, Version
from tests.simulation.modules import STATE_VERSIONS, TABLE_VERSIONS, Shape, Spec

if TYPE_CHECKING:
    from tests.simulation.life import Life
    from tests.simulation.world import World

FAULTS = (
    *("prepare", "take_over", "trial", "trial", "import", "stage"),
    *("prepare hangs", "trial hangs", "trial once", "overruns", "deadly", "deadly import", "deadly later"),
)
RECORDS = ("Planned", "Prepared", "Prepared", "Prepared", "Committed", "Committed", "Confirmed", "RolledBack")
PROBATION_RECORDS = ("Breached", "Breached", "Degraded", "Inconclusive", "Confirmed", "Quarantined")
MORE_RECORDS = ("Quarantined", "ImageSaved", "HostStopped", "Settled", "TagMoved", "Unchanged", "Overridden")
RECOVERY = ("HostStarted", "HostStarted", "RolledBack", "StartDied", "ImageUsed", "Confirmed", "Quarantined")
Action = Callable[["Life"], Awaitable[None] | None]


class Drawing:
    """Draws for one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng: random.Random = world.rng
        self._versions: dict[str, Version] = {}
        self._asks = random.Random(f"probation {world.seed}")  # noqa: S311  # worlds without are as they were
        own = random.Random(f"durable {world.seed}")  # noqa: S311  # worlds without are as they were
        self._own = own
        self._durable = {p for p in world.modules if own.random() < 0.5} if own.random() < 0.4 else set()

    def durable(self, package: str) -> bool:
        """Mostly as its package is in this world."""
        change = 0.1 if self._world.era < 2 else 0.25
        return bool(self._durable) and (package in self._durable) != (self._own.random() < change)

    def aim(self) -> int:
        """A life dies right after so many writes of durable modules, which are on disk then, and nothing after them; 0: no."""
        aim = self._world.aim
        if self._world.era < 2 or not self._durable or aim.random() < 0.5:
            return 0
        return aim.randint(1, aim.choice((4, 40, 160)))

    def aim_at_switch(self) -> int:
        """The same, counted from a switch by which a module becomes durable."""
        aim = self._world.aim
        return aim.randint(1, 3) if self._world.era >= 2 and aim.random() < 0.5 else 0

    def spec(self, package: str) -> Spec:
        rng = self._rng
        shape = Shape(
            rng.randint(1, STATE_VERSIONS),
            rng.randint(1, TABLE_VERSIONS) if rng.random() < 0.3 else 0,
            slow=rng.random() < 0.4,
            broken_step=rng.random() < 0.05,
        )
        fault = rng.choice(FAULTS) if rng.random() < 0.3 else ""
        return Spec(
            shape,
            fault,
            slow_s=rng.choice((0.001, 0.01, 0.1)),
            drain_s=rng.choice((0.05, 0.5, 1.0)),
            mailbox=rng.choice((3, 1000)),
            durable=self.durable(package),
            **self._probation(),
        )

    def _probation(self) -> dict[str, Any]:
        """Some releases have one, and some of those go bad in it."""
        own = self._asks
        if self._world.era < 3 or own.random() < 0.5:
            return {}
        return {
            "probation_s": own.choice((1.0, 3.0, 10.0)),
            "min_messages": own.choice((0, 3, 20)),
            "sour": own.choice((0, 1, 4, 12)),
        }

    def next_tag(self, package: str) -> str:
        """A version above what it had, mostly by a patch; or now and then one below."""
        rng, before = self._rng, self._versions.get(package, Version(1, 0, 0))
        if rng.random() < 0.1:
            return Tag(package, Version(0, 9, rng.randint(0, 9))).name
        made = Version(before.major, before.minor + 1, 0) if rng.random() < 0.3 else before.next_patch()
        self._versions[package] = made
        return Tag(package, made).name

    def action(self) -> tuple[str, Action]:
        """The next thing that happens."""
        names, weights = zip(*_WEIGHTS.items(), strict=True)
        name = self._rng.choices(names, weights)[0]
        act: Action = getattr(self, name)
        return name, act

    # -- refs -------------------------------------------------------------------------------------------------

    def push(self, life: Life) -> None:
        rng, world = self._rng, self._world
        packages = rng.sample(world.modules, rng.randint(1, min(3, len(world.modules))))
        commit = world.origin.commit({package: self.spec(package) for package in sorted(packages)})
        for package in sorted(packages):
            name = self.next_tag(package)
            world.origin.tag(name, commit.id)
            world.watch.note(f"push {name} {world.origin.trees[commit.packages[package]]}")
        self.traffic(life)
        life.tags_moved(whole=rng.random() < 0.5)

    def move_tag(self, life: Life) -> None:
        rng, origin = self._rng, self._world.origin
        tags = [name for name in sorted(origin.tags) if not name.startswith("app/")]
        if not tags:
            return
        name = rng.choice(tags)
        package = name.partition("/")[0]
        commits = [c.id for c in origin.commits.values() if package in c.packages]
        origin.tag(name, rng.choice(commits))
        self._world.watch.note(f"move {name} to {(origin.tags[name].commit_id or '')[-4:]}")
        life.tags_moved(whole=rng.random() < 0.5)

    def delete_tag(self, life: Life) -> None:
        origin = self._world.origin
        if origin.tags:
            name = self._rng.choice(sorted(origin.tags))
            del origin.tags[name]
            self._world.watch.note(f"delete {name}")
            life.tags_moved(whole=True)

    def forget_package(self, life: Life) -> None:
        """All tags of a package go: what serves stays."""
        origin, package = self._world.origin, self._rng.choice([*self._world.modules, "app"])
        for name in [name for name in origin.tags if name.startswith(f"{package}/")]:
            del origin.tags[name]
        self._world.watch.note(f"delete all tags of {package}")
        life.tags_moved(whole=True)

    def compose(self, life: Life) -> None:
        """Another app.toml: modules that come and go, another name, a config, more names."""
        rng, world = self._rng, self._world
        modules: dict[str, ModuleSpec] = {}
        aliases = ["xa", "xb"]
        for package in world.modules:
            if rng.random() < 0.2:
                continue
            name = package + "z" if rng.random() < 0.15 else package
            config = {"size": rng.randint(1, 3)} if rng.random() < 0.3 else {}
            also = (aliases.pop(),) if aliases and rng.random() < 0.2 else ()
            modules[name] = ModuleSpec(package=package, config=config, also=also, enabled=rng.random() > 0.1)
        app: AppManifest | str = AppManifest(modules=modules) if rng.random() > 0.1 else "broken"
        commit = world.origin.commit({}, app, shared=world.base)
        name = self.next_tag("app")
        world.origin.tag(name, commit.id)
        said = {n: (m.package, m.config, m.also, m.enabled) for n, m in modules.items()}
        world.watch.note(f"push {name} {said if app != 'broken' else app}")
        self.traffic(life)
        life.tags_moved(whole=rng.random() < 0.5)

    # -- messages ---------------------------------------------------------------------------------------------

    def traffic(self, life: Life) -> None:
        rng, world = self._rng, self._world
        for _ in range(rng.randint(1, 3)):
            world.bursts += 1
            target = rng.choice(sorted(life.app.modules) or world.modules)
            life.produce(100 + world.bursts, target, rng.randint(2, 12), rng.choice((0.001, 0.01, 0.05)))

    # -- commands ---------------------------------------------------------------------------------------------

    def command(self, life: Life) -> None:
        rng, world = self._rng, self._world
        name = rng.choice(sorted(life.book.ledger.table) or world.modules)
        op = rng.choice(
            ("hold", "unhold", "unhold", "disable", "enable", "unload", "load", "swap", "bind", "unbind")
        )
        arguments: dict[str, object] = {"name": name, "who": "ada", "reason": "drawn"}
        if op in {"hold", "unhold"} and rng.random() < 0.5:
            arguments["name"] = ""
        if op in {"bind", "unbind"}:
            arguments["name"] = rng.choice(("xa", "xb", "xc"))
            arguments["module"] = name
        if op == "load":
            arguments["name"] = rng.choice(world.modules)
        if op == "swap":
            tags = [t for t in sorted(world.origin.tags) if t.startswith(f"{name}/v")]
            arguments["version"] = rng.choice(tags).partition("/v")[2] if tags else "1.0.0"
        life.command(op, **arguments)

    def rollback(self, life: Life) -> None:
        rng = self._rng
        module = rng.choice(sorted(life.book.ledger.table) or self._world.modules)
        arguments: dict[str, object] = {"reason": "drawn"}
        if rng.random() < 0.5:
            arguments["module"] = module
            arguments["only"] = rng.random() < 0.3
        life.command("rollback", **arguments)

    def retry(self, life: Life) -> None:
        tags = sorted({q.tag for q in life.book.ledger.quarantine.values() if q.tag})
        if tags:
            life.command("retry", tag=self._rng.choice(tags))

    # -- faults -----------------------------------------------------------------------------------------------

    def crash_soon(self, life: Life) -> None:
        delay = self._rng.choice((0.0, 0.002, 0.02, 0.2, 2.0)) * self._rng.random()
        life.loop.call_later(delay, life.die, "at any moment")

    def crash_at_record(self, life: Life) -> None:
        rng = self._rng
        kind = rng.choice(RECORDS if rng.random() < 0.75 else MORE_RECORDS)
        self._world.crash_at = (kind, rng.choice(("before", "after")), rng.choice((0, 0, 0, 1, 2)))
        if self._world.era >= 3 and self._asks.random() < 0.3:
            self._world.crash_at = (self._asks.choice(PROBATION_RECORDS), *self._world.crash_at[1:])
        self._world.watch.note(f"will die at {self._world.crash_at}")
        if rng.random() < 0.7:
            self.push(life)

    def crash_twice(self, life: Life) -> None:
        """Once at any moment, and again while the next host recovers."""
        rng = self._rng
        self._world.crash_at = (rng.choice(RECOVERY), rng.choice(("before", "after")), 0)
        self.crash_soon(life)

    def crash_while_stopping(self, life: Life) -> None:
        rng = self._rng
        self._world.crash_at = (rng.choice(("ImageSaved", "HostStopped")), rng.choice(("before", "after")), 0)
        life.over = True

    async def stop(self, life: Life) -> None:
        """A clean stop; the next life goes on with the script."""
        life.over = True

    def break_disk(self, life: Life) -> None:
        life.disk.breaks_at = self._rng.choice(("Planned", "Prepared", "Committed", "Committed", ""))
        life.disk.broken = not life.disk.breaks_at

    def slow_disk(self, life: Life) -> None:
        life.disk.slow_s = self._rng.choice((0.001, 0.1, 1.0))

    def break_repository(self, life: Life) -> None:
        life.repository.failing = self._rng.randint(1, 4)

    def break_history(self, life: Life) -> None:
        self._world.coverage["history failed"] += 1
        life.repository.history_failing = self._rng.randint(1, 3)

    async def wait(self, life: Life) -> None:
        await life.clock_sleep(self._rng.choice((1.0, 10.0, 60.0)))


_WEIGHTS = {
    "push": 30,
    "move_tag": 6,
    "delete_tag": 6,
    "forget_package": 3,
    "compose": 10,
    "traffic": 10,
    "command": 14,
    "rollback": 6,
    "retry": 4,
    "crash_soon": 8,
    "crash_at_record": 12,
    "crash_twice": 4,
    "crash_while_stopping": 2,
    "stop": 6,
    "break_disk": 4,
    "slow_disk": 4,
    "break_repository": 3,
    "break_history": 4,
    "wait": 8,
}
