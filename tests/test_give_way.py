"""A saturated loop and the threads of its process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from orchestrator.runtime.give_way import giving_way

QUESTIONS = 300
PATIENCE_S = 2.0  # 0.4 s with, up to 8 s without
# Like Git it thinks before it answers; meanwhile the thread sleeps, and has to come back into the interpreter.
CHILD = """
import os, time
while os.read(0, 1):
    time.sleep(0.0002)
    os.write(1, b"!")
"""


def converse() -> None:
    """What the Git thread does: small questions and answers over pipes, each of which lets go of the interpreter."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(QUESTIONS):
            os.write(child.stdin.fileno(), b"?")
            os.read(child.stdout.fileno(), 1)


async def spin(until: asyncio.Event) -> None:
    """Keep the loop busy as messages do: many short turns."""
    while not until.is_set():
        end = time.perf_counter() + 0.00003
        while time.perf_counter() < end:
            pass
        await asyncio.sleep(0)


def test_a_saturated_loop_lets_a_thread_talk_to_its_child() -> None:
    async def story() -> float:
        over = asyncio.Event()
        spinning = [asyncio.ensure_future(spin(over)) for _ in range(3)]
        began = time.perf_counter()
        async with giving_way():
            await asyncio.get_running_loop().run_in_executor(None, converse)
        took_s = time.perf_counter() - began
        over.set()
        await asyncio.gather(*spinning)
        return took_s

    assert asyncio.run(story()) < PATIENCE_S
