"""The ways into and out of a durable module: events, intakes, asks, tasks, full mailboxes, a stop that cuts a unit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runtime.durable import UNITS_AHEAD_MAX
from orchestrator.runtime.errors import MailboxFull
from tests.durable_kit import COUNTER, Disk, Life, life, turns, until
from tests.test_durable import state_of, waiting

TELLER = """
    from livetag import Module, handles

    class Teller(Module):
        def initial_state(self):
            return {"told": 0}

        @handles
        def tell(self, n: int) -> None:
            self.state["told"] = n
            self.publish("news.daily", {"n": n})
"""
LISTENER = """
    from livetag import Module, handles, subscribes

    class Listener(Module):
        def initial_state(self):
            return {"got": []}

        @subscribes("news.*"OPTIONS)
        def on_news(self, event: dict) -> None:
            self.state["got"].append(event["n"])

        @handles
        def got(self) -> list:
            return self.state["got"]
"""
ASKER = """
    import asyncio
    from livetag import Module, handles

    class Asker(Module):
        def initial_state(self):
            return {"count": 0}

        @handles
        async def go(self, n: int) -> int:
            self.state["count"] += 1
            self.send("m", "add", {"n": n})
            return await self.ask("m", "total", {}, timeout_s=5.0)

        @handles
        async def brood(self) -> None:
            self.state["count"] += 1
            self.send("m", "add", {"n": 1})
            await asyncio.sleep(60)

        @handles
        async def hatch(self, n: int) -> int:
            async def later() -> None:
                await asyncio.sleep(0)
                self.state["count"] += n
            self.task = asyncio.ensure_future(later())
            return n
"""
SLOW = """
    import asyncio
    from livetag import Module, handles

    class Slow(Module):
        def initial_state(self):
            return {"got": []}

        async def prepare(self) -> None:
            self.free = asyncio.Event()

        @handles
        async def add(self, n: int) -> None:
            await self.free.wait()
            self.state["got"].append(n)
"""


def box(it: Life, name: str) -> list[Any]:
    return [message.body for message in it.app.modules[name].mailbox.queue]


def test_an_event_is_in_the_inboxes_of_durable_subscribers_with_the_unit_that_published_it(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        disk, listener = Disk(), LISTENER.replace("OPTIONS", "")
        async with life(tmp_path, disk=disk) as it:
            modules = {"a": TELLER, "b": listener, "m": listener}
            await it.deploy("1.0.0", modules, durable={"a", "b"})
            looks = []

            def watch(_lines: object, _writes: object) -> None:
                stored = it.stored()
                looks.append(
                    (
                        state_of(stored, "a")["told"],
                        len(state_of(stored, "b")["got"]) + len(waiting(stored, "b")),
                    )
                )

            disk.watch = watch
            for n in range(1, 31):
                it.app.modules["a"].accept(it.app.message("tell", {"n": n}, ""))
                await asyncio.sleep(0)
            await it.settled()
            assert disk.seen is None
            assert all(told == heard for told, heard in looks)
            assert await it.app.ask("b", "got") == await it.app.ask("m", "got") == list(range(1, 31))
            disk.hold()
            publishing = asyncio.ensure_future(it.app.publish("news.daily", {"n": 31}))
            await turns()
            assert not publishing.done()  # accepted is on disk, for events from outside, too
            disk.go_on()
            assert await publishing == 2

    asyncio.run(story())


def test_an_event_that_takes_the_place_of_an_older_one_takes_it_on_disk_too(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"b": LISTENER.replace("OPTIONS", ", drop_oldest=True")}, durable={"b"})
            b = it.app.modules["b"]
            b.mailbox.limit = 3
            b.held = _Held()  # type: ignore[assignment]
            for n in range(1, 7):
                await it.app.publish("news.x", {"n": n})
            assert [body["n"] for body in box(it, "b")] == [4, 5, 6]
            assert waiting(it.stored(), "b") == box(it, "b")
            b.held = None

    asyncio.run(story())


class _Held:
    """Keeps units from beginning."""

    def admits(self, _path: object) -> bool:
        return False


def test_an_ask_of_a_durable_unit_goes_out_after_what_was_before_and_its_sends_after_the_unit(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": ASKER, "m": COUNTER}, durable={"a"})
            disk.hold()
            asked = [asyncio.ensure_future(it.app.ask("a", "go", {"n": n})) for n in (10, 20)]
            await turns(50)
            assert it.app.modules["m"].mailbox.accepted == 1  # the first unit's ask: nothing was before it
            disk.go_on()
            assert await asyncio.gather(*asked) == [0, 10]  # the first send came before the second ask
            await it.settled()
            assert await it.app.ask("m", "got") == [10, 20]

    asyncio.run(story())


def test_a_unit_with_a_task_is_written_when_the_task_has_ended_and_answered_then(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": ASKER}, durable={"a"})
            disk.hold()
            asked = asyncio.ensure_future(it.app.ask("a", "hatch", {"n": 5}))
            await turns(50)
            assert not asked.done()
            disk.go_on()
            assert await asked == 5
            assert state_of(it.stored(), "a") == {"count": 5}

    asyncio.run(story())


def test_a_unit_that_a_stop_cuts_is_handled_by_the_next_life_and_left_no_trace(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path) as it:
            await it.deploy("1.0.0", {"a": ASKER, "m": COUNTER}, durable={"a"})
            await it.app.send("a", "brood")
            await until(lambda: it.app.modules["a"].unit is not None)
            await it.app.modules["a"].close("the host stopped")
            await it.stopped()
            assert (it.letters, len(waiting(it.stored(), "a"))) == ([], 1)
            assert state_of(it.stored(), "a") == {"count": 0}
            after = it.killed(tmp_path)
        async with life(tmp_path, after) as it:
            await until(lambda: it.app.modules["a"].unit is not None)
            assert it.app.modules["m"].mailbox.accepted == 0

    asyncio.run(story())


def test_full_mailboxes_hold_a_durable_sender_back_and_keep_its_order(tmp_path: Path) -> None:
    async def story() -> None:
        for target_durable in (False, True):
            folder = tmp_path / str(target_durable)
            folder.mkdir()
            async with life(folder) as it:
                durable = {"a", "b"} if target_durable else {"a"}
                modules = {"a": COUNTER, "b": SLOW}
                await it.deploy("1.0.0", modules, durable=durable, configs={"a": {"to": "b"}})
                b = it.app.modules["b"]
                b.mailbox.limit = 2
                for n in range(1, 21):
                    it.app.modules["a"].accept(it.app.message("add", {"n": n}, ""))
                await until(lambda b=b: len(b.mailbox) == 3)  # type: ignore[misc]
                await it.app.durability.settled()
                await turns(50)
                assert len(b.mailbox) == 3
                with pytest.raises(MailboxFull):
                    await it.app.send("b", "add", {"n": 99}, timeout_s=0.05)
                slow: Any = b.implementation.instance if b.implementation is not None else None
                slow.free.set()
                await until(lambda b=b: b.handled == 20)  # type: ignore[misc]
                await it.settled()
                assert slow.state["got"] == list(range(1, 21))
                assert waiting(it.stored(), "b") == [] if target_durable else True

    asyncio.run(story())


def test_a_module_runs_ahead_of_the_disk_only_so_far(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            await it.deploy("1.0.0", {"a": TELLER}, durable={"a"})
            disk.hold()
            a = it.app.modules["a"]
            for n in range(UNITS_AHEAD_MAX * 2):
                a.accept(it.app.message("tell", {"n": n}, ""))
            await until(lambda: a.handled >= UNITS_AHEAD_MAX)
            await turns(100)
            assert a.handled == UNITS_AHEAD_MAX
            disk.go_on()
            await it.settled()
            assert a.handled == UNITS_AHEAD_MAX * 2

    asyncio.run(story())


def test_an_intake_is_called_again_when_its_item_is_on_disk(tmp_path: Path) -> None:
    async def story() -> None:
        code = """
            import asyncio
            from livetag import Module, handles, intake

            class Reader(Module):
                def initial_state(self):
                    return {"got": []}

                async def prepare(self) -> None:
                    self.calls = 0

                @intake
                async def read(self) -> dict:
                    self.calls += 1
                    if self.calls > 3:
                        await asyncio.sleep(60)
                    return {"n": self.calls}

                @handles("read")
                def on_read(self, n: int) -> None:
                    self.state["got"].append(n)
        """
        disk = Disk()
        async with life(tmp_path, disk=disk) as it:
            deploying = asyncio.ensure_future(it.deploy("1.0.0", {"a": code}, durable={"a"}))
            await deploying
            a = it.app.modules["a"]
            await until(lambda: a.handled == 3)
            await it.settled()
            assert state_of(it.stored(), "a") == {"got": [1, 2, 3]}
            assert a.implementation is not None
            reader: Any = a.implementation.instance
            disk.hold()
            delivering = asyncio.ensure_future(a.deliver_intake("read", {"n": 9}))
            await turns()
            assert not delivering.done()
            disk.go_on()
            await delivering
            assert reader.calls == 4

    asyncio.run(story())
