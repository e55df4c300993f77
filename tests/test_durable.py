"""Durable modules: what a unit did is on disk before anybody hears of it, all of it or nothing (DESIGN §6 P2, §7)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

import livetag
from livetag import Module, handles
from orchestrator.runtime.durability import STATE_BYTES_MAX
from orchestrator.runtime.errors import DurabilityLost, HandlerFailed
from orchestrator.upgrade.durable_rows import Stored
from tests.durable_kit import COUNTER, Disk, life, turns, until

Body = dict[str, Any]


def state_of(stored: Stored, name: str) -> Any:
    return msgspec.msgpack.decode(stored.modules[name].state)


def waiting(stored: Stored, name: str) -> list[Any]:
    return [message.body for message in stored.modules[name].messages]


def records(stored: Stored, name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for image in stored.modules[name].tables:
        for part in image.parts:
            found.update(dict(msgspec.msgpack.decode(part)))
    return found


CHAIN: dict[str, dict[str, object]] = {"a": {"to": "b"}}


def test_a_killed_host_comes_back_with_state_tables_and_what_waited(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": COUNTER, "b": COUNTER}, durable={"a", "b"}, configs=CHAIN)
            for n in (1, 2, 3):
                await it.app.send("a", "add", {"n": n})
            await it.settled()
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            for name in ("a", "b"):
                assert await it.app.ask(name, "got") == [1, 2, 3]
                assert dict(it.app.modules[name].tables.live["seen"].items()) == {1: 1, 2: 3, 3: 6}
            assert await it.app.ask("a", "add", {"n": 4}) == 10

    asyncio.run(story())


def test_a_message_is_accepted_once_it_is_on_disk_and_handled_by_the_next_life(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": COUNTER}, durable={"a"})
            disk.hold()
            sending = asyncio.ensure_future(it.app.send("a", "add", {"n": 5}))
            await turns()
            assert not sending.done()
            assert waiting(it.stored(), "a") == []
            disk.go_on()
            await sending
            await it.enable("a", enabled=False)
            for n in (6, 7, 8):
                it.app.modules["a"].accept(it.app.message("add", {"n": n}, ""))
            await it.app.durability.settled()
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert it.app.modules["a"].mailbox.queue[0].body == {"n": 6}
            ids = [m.id for m in it.app.modules["a"].mailbox.queue]
            assert it.app.message("add", None, "").id > max(ids)
            await it.enable("a", enabled=True)
            await it.settled()
            assert await it.app.ask("a", "got") == [5, 6, 7, 8]

    asyncio.run(story())


@pytest.mark.parametrize("one_by_one", [False, True], ids=["in batches", "one by one"])
def test_a_unit_its_input_and_its_outputs_are_on_disk_together_or_not_at_all(
    tmp_path: Path, one_by_one: bool
) -> None:
    async def story() -> None:
        disk = Disk(one_by_one=one_by_one)
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": COUNTER, "b": COUNTER}, durable={"a", "b"}, configs=CHAIN)
            await it.enable("b", enabled=True)
            a, b = it.app.modules["a"], it.app.modules["b"]
            looks = []

            def look(_lines: object = (), _writes: object = ()) -> None:
                """Between any two batches: what the next life would find."""
                stored = it.stored()
                got_a, got_b = state_of(stored, "a")["got"], state_of(stored, "b")["got"]
                looks.append((got_a, waiting(stored, "a"), got_b, waiting(stored, "b")))

            disk.watch = look
            for n in range(1, 41):
                a.accept(it.app.message("add", {"n": n}, ""))
                await asyncio.sleep(0)
            await it.settled()
            look()
            assert disk.seen is None
            assert disk.batches > (100 if one_by_one else 3)
            assert b.handled == 40
            for got_a, left_a, got_b, left_b in looks:
                assert got_a + [body["n"] for body in left_a] == list(range(1, 1 + len(got_a) + len(left_a)))
                assert (
                    got_b + [body["n"] for body in left_b] == got_a
                )  # what a did is with b, neither lost nor twice
            assert looks[-1][2] == list(range(1, 41))

    asyncio.run(story())


def test_nothing_leaves_a_unit_before_it_is_on_disk_and_then_in_order(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            twice = COUNTER.replace(
                'self.send(target, "add", {"n": n})',
                'self.send(target, "add", {"n": n}); self.send(target, "add", {"n": n + 100})',
            )
            await it.deploy("1.0.0", {"a": twice, "m": COUNTER}, durable={"a"}, configs={"a": {"to": "m"}})
            a, m = it.app.modules["a"], it.app.modules["m"]
            disk.hold()
            asked = [asyncio.ensure_future(it.app.ask("a", "add", {"n": n})) for n in (1, 2, 3)]
            read = asyncio.ensure_future(it.app.ask("a", "total"))
            await turns(50)
            assert a.handled == 4  # the units are done, one after the other
            assert m.mailbox.accepted == 0
            assert not any(each.done() for each in (*asked, read))  # not even who only reads hears of it
            before = disk.batches
            disk.go_on()
            assert await asyncio.gather(*asked, read) == [1, 3, 6, 6]
            await it.settled()
            assert await it.app.ask("m", "got") == [1, 101, 2, 102, 3, 103]
            assert disk.batches - before <= 2  # many units share one sync

    asyncio.run(story())


def test_a_unit_that_raises_leaves_no_trace_but_its_dead_letter(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": COUNTER}, durable={"a"})
            await it.app.send("a", "add", {"n": 7})
            await it.settled()
            disk.hold()
            it.app.modules["a"].accept(it.app.message("add", {"n": -1}, ""))
            await turns()
            assert await asyncio.wait_for(_state(it), 1) == {"total": 7, "got": [7]}  # read again
            assert waiting(it.stored(), "a") == []
            assert it.stored().letters == []
            disk.go_on()
            await it.settled()
            stored = it.stored()
            assert waiting(stored, "a") == []
            assert [letter.message.body for letter in stored.letters] == [{"n": -1}]
            assert state_of(stored, "a") == {"total": 7, "got": [7]}
            assert records(stored, "a") == dict(it.app.modules["a"].tables.live["seen"].items()) == {7: 7}
            with pytest.raises(HandlerFailed, match="below zero"):
                await it.app.ask("a", "add", {"n": -2})
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert [letter.message.body for letter in it.letters] == [{"n": -1}, {"n": -2}]
            assert await it.app.ask("a", "total") == 7

    async def _state(it: Any) -> Any:
        return it.app.modules["a"].implementation.state

    asyncio.run(story())


def test_a_letter_is_given_again_or_dropped_for_good(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": COUNTER}, durable={"a"})
            await it.app.send("a", "add", {"n": -1})
            await it.app.send("a", "add", {"n": -2})
            await it.settled()
            await it.deploy("1.1.0", {"a": COUNTER.replace("n < 0", "n < -1")}, durable={"a"})
            await it.app.give_again(it.letters[0])
            assert [letter.number for letter in it.stored().letters] == [2]
            await it.app.drop(it.letters[0])
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert it.letters == []
            await it.settled()
            assert await it.app.ask("a", "got") == [-1]

    asyncio.run(story())


def test_a_state_that_is_too_large_fails_the_unit_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        code = COUNTER.replace(
            'self.state["total"] += n', 'self.state["total"] += n; self.state["fat"] = "x" * n'
        )
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": code}, durable={"a"})
            assert await it.app.ask("a", "add", {"n": 3}) == 3
            with pytest.raises(HandlerFailed, match=r"self.state is \d+ bytes.*65536.*Table"):
                await it.app.ask("a", "add", {"n": STATE_BYTES_MAX})
            assert await it.app.ask("a", "got") == [3]
            assert records(it.stored(), "a") == {3: 3}

    asyncio.run(story())


def test_a_failed_disk_stops_durable_modules_and_only_them(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": COUNTER, "m": COUNTER}, durable={"a"}, configs={"a": {"to": "m"}})
            assert await it.app.ask("a", "add", {"n": 1}) == 1
            disk.fails = OSError(28, "No space left on device")
            with pytest.raises(DurabilityLost, match=r"No space left.*restart the host"):
                await it.app.ask("a", "add", {"n": 2})
            with pytest.raises(
                DurabilityLost, match="a is durable and handles nothing until the host is restarted"
            ):
                await it.app.send("a", "add", {"n": 3})
            with pytest.raises(DurabilityLost):
                await it.app.ask("a", "total")
            resting = it.app.modules["a"].resting
            assert resting is not None
            assert "No space left" in resting.reason  # no unit of it begins any more
            assert await it.app.ask("m", "add", {"n": 10}) == 11  # of a only what was on disk has come
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            assert await it.app.ask("a", "got") == [1]

    asyncio.run(story())


def test_a_clean_stop_keeps_what_durable_modules_gave_to_those_in_memory(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": COUNTER, "m": COUNTER}, durable={"a"}, configs={"a": {"to": "m"}})
            await it.enable("m", enabled=True)
            for n in (1, 2, 3):
                it.app.modules["a"].accept(it.app.message("add", {"n": n}, ""))
            await turns()
            await it.stopped()
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            await it.settled()
            assert await it.app.ask("a", "got") == [1, 2, 3]
            assert await it.app.ask("m", "got") == [1, 2, 3]

    asyncio.run(story())


def test_what_a_module_in_memory_sends_to_a_durable_one_is_there_before_its_asker_hears(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"m": COUNTER, "a": COUNTER}, durable={"a"}, configs={"m": {"to": "a"}})
            disk.hold()
            asked = asyncio.ensure_future(it.app.ask("m", "add", {"n": 4}))
            await turns()
            assert not asked.done()
            disk.go_on()
            assert await asked == 4
            await until(lambda: it.app.modules["a"].handled == 1)

    asyncio.run(story())


def test_a_durable_module_under_test_has_the_same_rules_without_a_disk() -> None:
    class Notes(Module[dict[str, Any]]):
        def initial_state(self) -> dict[str, Any]:
            return {"notes": []}

        @handles
        def note(self, text: str) -> int:
            self.state["notes"].append(text)
            self.send("log", "noted", {"text": text})
            if text == "bad":
                raise ValueError(text)
            return len(self.state["notes"])

    async def story() -> None:
        async with livetag.testing.run(Notes, durable=True) as notes:
            assert await notes.ask("note", {"text": "a"}) == 1
            with pytest.raises(HandlerFailed):
                await notes.ask("note", {"text": "bad"})
            assert notes.state == {"notes": ["a"]}  # read again; in memory "bad" would stay
            with pytest.raises(HandlerFailed, match=r"self\.state is .* bytes"):
                await notes.ask("note", {"text": "x" * STATE_BYTES_MAX})
            await notes.send("note", {"text": "b"})
            assert notes.state == {"notes": ["a", "b"]}
            assert [sent.body for sent in notes.sent] == [{"text": "a"}, {"text": "b"}]
            assert len(notes.dead_letters) == 2
            await notes.upgrade(Notes)
            assert await notes.ask("note", {"text": "c"}) == 3

    asyncio.run(story())


def test_a_message_that_fails_is_in_the_inbox_or_a_dead_letter_at_any_moment(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": COUNTER}, durable={"a"})
            await it.enable("a", enabled=False)
            for n in range(1, 31):
                it.app.modules["a"].accept(it.app.message("add", {"n": -n}, ""))
            await it.app.durability.settled()
            looks = []

            def watch(_lines: object, _writes: object) -> None:
                stored = it.stored()
                looks.append(len(waiting(stored, "a")) + len(stored.letters))

            disk.watch = watch
            await it.enable("a", enabled=True)
            await it.settled()
            assert disk.seen is None
            assert len(it.stored().letters) == 30
            assert set(looks) == {30}

    asyncio.run(story())
