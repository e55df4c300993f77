"""The host's event loop: uvloop's where it is installed, and in either case one that only its own end ends."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import pytest

from orchestrator.control.outlast import new_loop, run_to_its_end


class Fast(asyncio.SelectorEventLoop):
    """What stands for uvloop's loop."""


def test_uvloop_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    uvloop = ModuleType("uvloop")
    uvloop.new_event_loop = Fast  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uvloop", uvloop)

    async def main() -> type:
        return type(asyncio.get_running_loop())

    assert run_to_its_end(main()) is Fast


def test_asyncios_own_loop_is_used_where_uvloop_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_loop()
    loop.close()
    assert type(loop).__module__.startswith("asyncio.")


def test_callbacks_that_exit_do_not_end_the_loop() -> None:
    async def main() -> str:
        for code in (3, 4):
            asyncio.get_running_loop().call_soon(sys.exit, code)
            for _ in range(3):  # turns, so that none is the last one of all
                await asyncio.sleep(0)
        return "to its end"

    assert run_to_its_end(main()) == "to its end"


def test_what_the_main_task_raises_comes_out() -> None:
    async def main() -> None:
        raise SystemExit(5)

    with pytest.raises(SystemExit, match="5"):
        run_to_its_end(main())
