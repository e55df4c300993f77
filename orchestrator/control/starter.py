"""What `livetag init --work` puts into a new clone: one module, its test, and how to run it."""

MODULE = '''\
"""Counts, and keeps its count over every upgrade."""

from typing import TypedDict

from livetag import Module, handles


class State(TypedDict):
    total: int


class Counter(Module[State]):
    def initial_state(self) -> State:
        return {"total": 0}

    @handles
    def tick(self, key: str, by: int = 1) -> int:
        self.state["total"] += by
        return self.state["total"]
'''

MANIFEST = """\
entry = "counter:Counter"
description = "counts ticks"
"""

TEST = '''\
"""The counter, tested without Git, files or a host: `python -m pytest`."""

import asyncio

from counter import Counter
from livetag import testing


def test_a_tick_adds_to_the_state_that_was_there() -> None:
    async def story() -> None:
        async with testing.run(Counter, state={"total": 3}) as counter:
            assert await counter.ask("tick", {"key": "apples"}) == 4
            assert await counter.ask("tick", {"key": "apples", "by": 6}) == 10
            assert counter.state == {"total": 10}

    asyncio.run(story())
'''

PYTEST = """\
[pytest]
testpaths = tests
pythonpath = modules
"""

IGNORED = """\
__pycache__/
.pytest_cache/
"""

FILES = (
    ("modules/counter/__init__.py", MODULE),
    ("modules/counter/module.toml", MANIFEST),
    ("tests/test_counter.py", TEST),
    ("pytest.ini", PYTEST),
    (".gitignore", IGNORED),
)
"""Path and text of each file of the first commit."""

TAG = "counter/v1.0.0"

CONFIG = """\
# The host of this deployment. Every key has a default, shown here; a restart applies a change.

[host]
# prereleases = false     # true: tags such as counter/v1.2.0-rc.1 are deployed as well
# shadow = true           # false: no release is shadowed, as on a host without traffic
# stall_s = 5.0           # a handler that does not return for this long is interrupted
# settle_s = 10.0         # a death of the host this soon after its start counts against what it started with
# probation = true        # false: no release is watched after it went live, whatever its module.toml asks for
# drain_s = 10.0          # SIGTERM: how long the units under way may take to end

[policy]
# mode = "default"        # "strict": signed tags only; a key allow names who may push. README, "Who may deploy"

[control]
# group = "ops"           # its members may use the control socket too; else only you

[trial]
# memory_mb = 4096        # limits of the child process that tries a release before it comes near the host
# time_s = 20.0
"""
"""The livetag.toml of a new deployment."""
