"""What only one can have, such as a port, is opened again when the version that had it has let go of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.runtime_kit import until
from tests.swapping import Swapper, with_swapper

#: Its resource is a file that must not be there when it is opened.
VERSION = """\
import asyncio
from pathlib import Path
from livetag import Module, handles, resource

class Lock:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch(exist_ok=False)

    def close(self) -> None:
        self.path.unlink()

class Holder(Module[dict]):
    @resource(key={name!r})
    async def lock(self) -> Lock:
        return Lock(Path({folder!r}) / {name!r})

    @handles
    def held(self) -> str:
        return self.lock.path.name

    async def stop(self) -> None:
        Path({folder!r}, "stopping").touch()
        while not Path({folder!r}, "may stop").exists():
            await asyncio.sleep(0.001)
"""


def version(folder: Path, name: str) -> dict[str, str]:
    return {"__init__.py": VERSION.format(folder=str(folder), name=name)}


def test_a_way_back_waits_until_what_it_opens_again_is_closed(tmp_path: Path) -> None:
    async def story(swapper: Swapper) -> None:
        one = swapper.write("holder", "1.0.0", version(tmp_path, "one"))
        two = swapper.write("holder", "2.0.0", version(tmp_path, "two"))
        await swapper.swap(one)
        transaction, outcome = await swapper.transact(two)
        retiring = asyncio.ensure_future(transaction.retire(outcome))
        await until((tmp_path / "stopping").exists)
        back = asyncio.ensure_future(swapper.swap(one))
        for _ in range(20):
            await asyncio.sleep(0)
        assert await swapper.app.ask("holder", "held") == "two"
        (tmp_path / "may stop").touch()
        await retiring
        await back
        assert await swapper.app.ask("holder", "held") == "one"

    with_swapper(tmp_path / "code", story)


def test_a_module_that_returns_waits_until_what_it_had_is_closed(tmp_path: Path) -> None:
    async def story(swapper: Swapper) -> None:
        one = swapper.write("holder", "1.0.0", version(tmp_path, "one"))
        await swapper.swap(one)
        removing = asyncio.ensure_future(swapper.remove("holder"))
        await until((tmp_path / "stopping").exists)
        back = asyncio.ensure_future(swapper.swap(one))
        for _ in range(20):
            await asyncio.sleep(0)
        (tmp_path / "may stop").touch()
        await removing
        await back
        assert await swapper.app.ask("holder", "held") == "one"

    with_swapper(tmp_path / "code", story)
