"""Durable modules in a switch: COMMITTED, the state in its schema and the rows are one, in whatever direction (DESIGN §7.6)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.runtime.durability import LetterRow, StateRow
from orchestrator.upgrade.durable_switch import RECORDS_MAX
from orchestrator.upgrade.ledger import fold
from orchestrator.upgrade.records import Committed, Prepared
from orchestrator.upgrade.state_import import export_state, import_state
from tests.durable_kit import COUNTER, Disk, Life, life, turns, until
from tests.test_durable import records, state_of, waiting

V1 = """
    from typing import Any
    from livetag import Module, Table, handles

    class Counter(Module[dict[str, Any]]):
        seen: Table[int, int] = Table(version=1)

        def initial_state(self):
            return {"total": 0}

        @handles
        def add(self, n: int) -> int:
            self.state["total"] += n
            self.seen[n] = n
            return self.state["total"]

        @handles
        def read(self, n: int) -> Any:
            return self.seen.get(n)
"""
POISON = COUNTER.replace(
    "@handles", 'def take_over(self, resources): raise ValueError("not now")\n\n        @handles', 1
)
V2 = """
    from typing import Any
    from livetag import Module, Table, handles

    class Counter(Module[dict[str, Any]]):
        state_version = 2
        seen: Table[int, str] = Table(version=2)

        def initial_state(self):
            return {"sum": 0}

        @handles
        def add(self, n: int) -> int:
            self.state["sum"] += n
            self.seen[n] = f"{n} two"
            return self.state["sum"]

        @handles
        def read(self, n: int) -> Any:
            return self.seen.get(n)

    @Counter.migrates(1, 2)
    def up(old: dict) -> dict:
        return {"sum": old["total"]}

    @Counter.migrates(2, 1)
    def down(new: dict) -> dict:
        return {"total": new["sum"]}

    @Counter.migrates("seen", 1, 2)
    def widen(key: int, old: int) -> str:
        return f"{old} was one"

    @Counter.migrates("seen", 2, 1)
    def narrow(key: int, new: str) -> int:
        return int(new.partition(" ")[0])
"""


def table(it: Life, name: str = "a") -> dict[Any, Any]:
    return dict(it.app.modules[name].tables.live["seen"].items())


def test_a_unit_of_a_new_version_is_never_on_disk_before_its_decision(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk(one_by_one=True)
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": V1}, durable={"a"})
            assert await it.app.ask("a", "add", {"n": 1}) == 1
            await it.settled()
            looks: list[tuple[bool, int, Any]] = []
            going = True

            def look(_lines: object, _writes: object) -> None:
                stored = it.stored()
                committed = sum(isinstance(r.fact, Committed) for r in it.journal.records())
                looks.append((committed > 1, stored.modules["a"].state_version, state_of(stored, "a")))

            async def load() -> None:
                n, durability = 1, it.app.durability
                # Without an end, units that overtook the decision would keep it off the disk.
                while going and n < 300:
                    if durability.number - durability.on_disk < 20:
                        n += 1
                        it.app.modules["a"].accept(it.app.message("add", {"n": n}, ""))
                    await asyncio.sleep(0)

            disk.watch = look
            loading = asyncio.ensure_future(load())
            await until(lambda: len(looks) > 5)
            outcome = await it.deploy("2.0.0", {"a": V2}, durable={"a"}, state_version=2)
            assert outcome.result == "committed"
            going = False
            await loading
            for n in range(5):
                await it.app.send("a", "add", {"n": 1000 + n})
            await it.settled()
            assert disk.seen is None
            assert {(new, "sum" in state) for _, new, state in [(c, v == 2, s) for c, v, s in looks]} == {
                (False, False),
                (True, True),
            }
            total = it.app.modules["a"].implementation.state["sum"]  # type: ignore[union-attr]
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert fold(it.journal.records()).table["a"].version == "2.0.0"
            assert state_of(it.stored(), "a") == {"sum": total}
            assert table(it)[1] == "1 was one"

    asyncio.run(story())


def test_the_decision_and_the_state_of_its_version_are_one_write(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk(one_by_one=True)
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": V1}, durable={"a"})
            await it.app.ask("a", "add", {"n": 5})
            before = it.killed(tmp_path)
            schemas = []

            def watch(lines: Sequence[Any], writes: Sequence[Any]) -> None:
                if any(isinstance(line.record.fact, Committed) for line in lines):
                    rows = [write.version for write in writes if isinstance(write, StateRow)]
                    schemas.append((it.stored().modules["a"].state_version, rows))

            it.disk.watch = watch
            await it.deploy("2.0.0", {"a": V2}, durable={"a"}, state_version=2)
            assert (it.disk.seen, schemas) == (None, [(1, [2])])
            after = it.killed(tmp_path)
            assert state_of(it.stored(), "a") == {"sum": 5}
        async with life(tmp_path, before) as it:
            assert await it.app.ask("a", "add", {"n": 1}) == 6
        async with life(tmp_path, after) as it:
            assert await it.app.ask("a", "add", {"n": 2}) == 7

    asyncio.run(story())


def test_a_kill_in_mid_sweep_leaves_records_of_both_versions_and_both_are_read(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path, sweeps=False) as it:
            await it.deploy("1.0.0", {"a": V1}, durable={"a"})
            for n in range(30):
                await it.app.ask("a", "add", {"n": n})
            await it.deploy("2.0.0", {"a": V2}, durable={"a"}, state_version=2)
            assert await it.app.ask("a", "read", {"n": 3}) == "3 was one"  # by a unit that only reads
            await it.app.ask("a", "add", {"n": 4})
            await it.settled()
            images = it.stored().modules["a"].tables
            assert {i.version: len(records_of(it, i.version)) for i in images} == {1: 28, 2: 2}
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            await until(
                lambda: not it.app.modules["a"].tables.live["seen"].store.layers
            )  # swept, and written
            await it.settled()
            assert [i.version for i in it.stored().modules["a"].tables] == [2]
            assert table(it) == {n: "4 two" if n == 4 else f"{n} was one" for n in range(30)}
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert table(it)[7] == "7 was one"

    asyncio.run(story())


def records_of(it: Life, version: int) -> dict[Any, Any]:
    stored = it.stored()
    image = stored.modules["a"]
    only = type(image)(
        image.package, 1, image.state, (), tuple(i for i in image.tables if i.version == version)
    )
    return records(type(stored)({"a": only}), "a")


def test_a_way_back_in_mid_sweep_survives_a_kill(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path, sweeps=False) as it:
            await it.deploy("1.0.0", {"a": V1}, durable={"a"})
            old = it.book.ledger.table["a"]
            for n in range(20):
                await it.app.ask("a", "add", {"n": n})
            await it.deploy("2.0.0", {"a": V2}, durable={"a"}, state_version=2)
            for n in range(5):
                await it.app.ask("a", "add", {"n": n})
            assert (await it.back_to("a", old)).result == "committed"
            assert await it.app.ask("a", "add", {"n": 19}) == 190 + 10 + 19
            await it.settled()
            assert {i.version for i in it.stored().modules["a"].tables} == {1, 2}
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert it.recovered.failed == {}
            assert table(it) == {n: n for n in range(20)}

    asyncio.run(story())


def test_a_module_becomes_durable_with_all_it_has_and_then_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": COUNTER})
            assert await it.app.ask("a", "add", {"n": 1}) == 1
            assert it.stored().modules == {}
            await it.enable("a", enabled=False)
            for n in (2, 3):
                it.app.modules["a"].accept(it.app.message("add", {"n": n}, ""))
            await it.deploy("1.1.0", {"a": COUNTER}, durable={"a"}, enabled=False)
            stored = it.stored()
            assert records(stored, "a") == {1: 1}
            assert waiting(stored, "a") == [{"n": 2}, {"n": 3}]
            before = it.killed(tmp_path)
        async with life(tmp_path, before) as it:
            await it.enable("a", enabled=True)
            await it.settled()
            assert await it.app.ask("a", "got") == [1, 2, 3]
            await it.deploy("1.2.0", {"a": COUNTER})
            assert it.stored().modules == {}
            assert await it.app.ask("a", "add", {"n": 4}) == 10
            assert it.app.modules["a"].durable is None
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert await it.app.ask("a", "got") == []  # as a module in memory after a kill

    asyncio.run(story())


def test_the_dead_letters_of_a_module_that_becomes_durable_survive_a_kill_from_then_on(
    tmp_path: Path,
) -> None:
    """Also of a module that was durable before: what it accepted then, and a version in memory failed on, is not lost."""

    async def story() -> None:
        disk = Disk(one_by_one=True)
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": COUNTER, "b": COUNTER}, durable={"a"})
            await it.deploy("1.1.0", {"a": COUNTER})
            for n in (-1, -2, -3, -4):
                await it.app.send("a", "add", {"n": n})
            await it.app.send("b", "add", {"n": -5})
            await until(lambda: len(it.letters) == 5)
            assert it.stored().letters == []
            taken = it.app.letters.take(it.letters[3].number)
            outcome = await it.deploy("1.2.0", {"a": POISON}, durable={"a"})
            assert outcome.result == "rolled_back"
            assert not any(letter.durable for letter in it.letters)
            decided: list[Committed] = []

            def look(lines: Sequence[Any], writes: Sequence[Any]) -> None:
                if any(isinstance(write, LetterRow) for write in writes):
                    facts = [line.record.fact for line in lines]
                    decided.extend(fact for fact in facts if isinstance(fact, Committed))

            disk.watch = look
            await it.deploy("1.3.0", {"a": COUNTER}, durable={"a"})
            disk.watch = None
            assert (len(decided), disk.seen) == (1, None)  # in one write with the decision
            assert taken is not None
            it.app.letters.put_back(taken, durable=it.app.modules["a"].keeps)
            await it.app.drop(it.letters[1])
            await it.settled()
            kept = [letter.message.body for letter in it.stored().letters]
            assert kept == [{"n": -1}, {"n": -3}, {"n": -4}]
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert [letter.message.body for letter in it.letters] == kept

    asyncio.run(story())


def test_a_letter_that_falls_out_while_its_module_becomes_durable_is_not_on_disk(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": COUNTER})
            await it.app.send("a", "add", {"n": -1})
            await until(lambda: len(it.letters) == 1)
            rows = it.app.letters.rows_of("a")
            it.app.durability.put(rows)
            it.app.letters.take(it.letters[0].number)
            it.app.letters.written(rows)
            await it.settled()
            assert it.stored().letters == []

    asyncio.run(story())


def test_too_many_records_to_become_durable_in_a_pause_are_refused(tmp_path: Path) -> None:
    async def story() -> None:
        code = COUNTER.replace(
            'self.seen[n] = self.state["total"]', "[self.seen.__setitem__(i, i) for i in range(n)]"
        )
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": code})
            await it.app.ask("a", "add", {"n": RECORDS_MAX + 1})
            outcome = await it.deploy("1.1.0", {"a": code}, durable={"a"})
            assert outcome.result == "rolled_back"
            assert f"becomes durable with {RECORDS_MAX + 1} records" in outcome.reason
            assert it.stored().modules == {}
            assert await it.app.ask("a", "total") == RECORDS_MAX + 1

    asyncio.run(story())


def test_a_durable_module_that_was_removed_returns_with_all_it_had(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": V1, "b": V1}, durable={"a", "b"})
            await it.app.ask("a", "add", {"n": 1})
            await it.remove("a")
            assert records(it.stored(), "a") == {1: 1}
            await it.deploy("2.0.0", {"a": V2}, durable={"a"}, state_version=2)  # in the same life
            assert await it.app.ask("a", "add", {"n": 2}) == 3
            await it.remove("a")
            await it.settled()
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert "a" in it.recovered.kept
            await it.deploy("2.0.0", {"a": V2}, durable={"a"}, state_version=2)
            assert table(it) == {1: "1 was one", 2: "2 two"}
            assert await it.app.ask("a", "add", {"n": 3}) == 6
            await it.settled()
            assert waiting(it.stored(), "a") == []
            assert state_of(it.stored(), "a") == {"sum": 6}

    asyncio.run(story())


def test_an_undone_switch_leaves_the_rows_as_they_were(tmp_path: Path) -> None:
    async def story() -> None:
        bad = V2.replace('return {"sum": old["total"]}', "raise KeyError('total')")
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": V1}, durable={"a"})
            await it.app.ask("a", "add", {"n": 1})
            assert (
                await it.deploy("2.0.0", {"a": bad}, durable={"a"}, state_version=2)
            ).result == "rolled_back"
            assert await it.app.ask("a", "add", {"n": 2}) == 3
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert await it.app.ask("a", "add", {"n": 3}) == 6
            assert table(it) == {1: 1, 2: 2, 3: 3}

    asyncio.run(story())


def test_what_waits_for_the_disk_keeps_its_order_when_its_target_becomes_durable(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": COUNTER, "m": COUNTER}, durable={"a"}, configs={"a": {"to": "m"}})
            a = it.app.modules["a"]
            deploying = asyncio.ensure_future(it.deploy("1.1.0", {"m": COUNTER}, durable={"m"}))
            n, durability = 0, it.app.durability
            while not it.app.modules["m"].keeps:
                if (
                    durability.number - durability.on_disk < 200
                ):  # else a slow machine is given more than it can do
                    n += 1
                    a.accept(it.app.message("add", {"n": n}, ""))
                if n % 50 == 0:
                    disk.hold()  # the units before the switch are not on disk when it comes
                    await turns(3)
                    disk.go_on()
                # On a busy machine the switch takes its time, and the state of each unit is all that came.
                await asyncio.sleep(0 if n < 1000 else 0.001)
            m = it.app.modules["m"]
            assert all(message.row for message in m.mailbox.queue)  # each of them survives a kill
            for more in range(n + 1, n + 20):
                a.accept(it.app.message("add", {"n": more}, ""))
            await deploying
            await it.settled()
            assert await it.app.ask("m", "got") == list(range(1, n + 20))

    asyncio.run(story())


def test_a_message_that_a_module_has_kept_in_memory_is_accepted_though_the_disk_failed(
    tmp_path: Path,
) -> None:
    """It was sent to a durable module, which is one in memory when the disk fails: a sender told otherwise sends again."""

    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"m": COUNTER}, durable={"m"})

            seen, sent = threading.Event(), threading.Event()

            def wait_with_prepared(lines: Sequence[Any], _writes: Sequence[Any]) -> None:
                if any(isinstance(line.record.fact, Prepared) for line in lines):
                    seen.set()
                    assert sent.wait(20)

            disk.watch = wait_with_prepared
            deploying = asyncio.ensure_future(it.deploy("1.1.0", {"m": COUNTER}, durable=set()))
            m = it.app.modules["m"]
            await until(seen.is_set)
            sends = [
                asyncio.ensure_future(it.app.send("m", "add", {"n": n}, timeout_s=20.0)) for n in range(3)
            ]
            await turns(3)
            disk.hold()  # PREPARED reaches the disk; the rows of the three, and COMMITTED, do not
            sent.set()
            await until(lambda: not m.keeps)
            assert not any(send.done() for send in sends)
            disk.fails = OSError("no room")
            disk.go_on()
            await asyncio.gather(*sends)  # accepted, each of them
            await asyncio.gather(deploying, return_exceptions=True)  # in doubt
            assert await it.app.ask("m", "got") == list(range(len(sends)))

    asyncio.run(story())


def test_an_imported_state_and_its_records_are_on_disk_in_one_write(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": V1}, durable={"a"})
            for n in (1, 2):
                await it.app.ask("a", "add", {"n": n})
            file = await export_state(it.app, it.book, "a")
            for n in (3, 4):
                await it.app.ask("a", "add", {"n": n})
            looks = []

            def watch(lines: Sequence[Any], writes: Sequence[Any]) -> None:
                looks.append(
                    [type(each).__name__ for each in (*(line.record.fact for line in lines), *writes)]
                )

            it.disk.watch = watch
            await import_state(it.app, it.book, "a", file, who="test", why="back")
            assert it.disk.seen is None
            assert looks[0] == ["StateImported", "Forget", "RecordRow", "RecordRow", "StateRow"]
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert table(it) == {1: 1, 2: 2}
            assert await it.app.ask("a", "add", {"n": 5}) == 8

    asyncio.run(story())
