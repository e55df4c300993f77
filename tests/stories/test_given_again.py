"""A release that fails on every tenth message goes back, and the one before it handles those: marked, in order, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stories.deployment import Deployment, deployed, wait_until

LEDGER = """
    from livetag import Message, Module, Table, handles

    class Ledger(Module):
        got: Table[int, dict] = Table(version=1)

        @handles
        def add(self, n: int, message: Message) -> int:
            FAILS
            self.got[n] = {"place": len(self.got), "by": self.version, "again": message.again}
            return n

        @handles
        def told(self) -> list[list]:
            rows = sorted(self.got.items(), key=lambda item: item[1]["place"])
            return [[n, row["by"], row["again"]] for n, row in rows]
"""
FEEDER = """
    from livetag import Module, handles

    class Feeder(Module):
        @handles
        def feed(self, names: list[str], first: int, last: int) -> None:
            for n in range(first, last + 1):
                for name in names:
                    self.send(name, "add", {"n": n})
"""
FAILS = """if n % 10 == 0 and n > 200:
                raise OverflowError("a number too round")"""
TERMS = "[probation]\nseconds = 120.0\nmin_messages = 250\n"
MODULES = ("kept", "light")


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with deployed(tmp_path) as made:
        made.deploy("feeder/v1.0.0", feeder=FEEDER)
        yield made


def bring(deployment: Deployment, version: str, fails: str) -> str:
    """The same code twice, durable and with its records in memory, as one transaction; returns what the push said."""
    for name in MODULES:
        durable = "durable = true\n" if name == "kept" else ""
        code = {"__init__.py": LEDGER.replace("FAILS", fails), "module.toml": durable + TERMS}
        deployment.write(name, code)
    tags = [f"{name}/v{version}" for name in MODULES]
    deployment.release(*tags)
    done = deployment.push("main", *tags)
    assert done.returncode == 0, done.stderr
    return done.stderr


def letters(deployment: Deployment) -> list[dict[str, Any]]:
    return list(deployment.call("dead_letters", action="list"))


def test_what_a_version_failed_on_in_its_probation_is_handled_by_the_one_before_marked_in_order_once(
    deployment: Deployment,
) -> None:
    bring(deployment, "1.0.0", "pass")
    deployment.send("feeder", "feed", names=list(MODULES), first=1, last=100)
    assert "in probation" in bring(deployment, "1.1.0", FAILS)
    with pytest.raises(Exception, match="a number too round"):
        deployment.ask("kept", "add", n=1000)  # who asks is told, and it is not done for him later
    deployment.send("feeder", "feed", names=list(MODULES), first=101, last=400)
    wait_until(lambda: deployment.version("kept") == "1.0.0", "it goes back", 20.0)
    deployment.send("feeder", "feed", names=list(MODULES), first=401, last=420)

    expected = list(range(1, 421))
    failed = [n for n in range(201, 401) if n % 10 == 0]
    for name in MODULES:
        wait_until(lambda name=name: len(deployment.ask(name, "told")) == len(expected), f"{name} is done")  # type: ignore[misc]
        told = deployment.ask(name, "told")
        assert sorted(n for n, _, _ in told) == expected  # nothing lost
        again = [n for n, _, marked in told if marked]
        assert again == [n for n in failed if n in again]  # in order
        assert {by for n, by, marked in told if marked} == {"1.0.0"}
        assert len(again) >= 3
        assert {n for n in failed if n not in again} <= {n for n, by, _ in told if by == "1.0.0"}
        assert [n for n, _, marked in told if not marked] == [n for n in expected if n not in again]
    [letter] = letters(deployment)
    assert letter["body"] == {"n": 1000}
    assert letter["version"] == "1.1.0"
    assert "somebody asked" in letter["may_have_had_effects"]
    assert "may have had effects: somebody asked" in " ".join(
        deployment.livetag("dead-letters", "list").stdout.split()
    )
