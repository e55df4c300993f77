"""Interfaces through real pushes: what does not fit waits or is refused before anything is touched, and says which field.

One host, a shop that takes orders and a till that sends them. What each case prints is kept in tests/interfaces.txt.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories import prose
from tests.stories.deployment import Deployment, deployed, wait_until

FILE = prose.FILE.with_name("interfaces.txt")
HEAD = """\
What livetag says of interfaces that do not fit, case by case. Written by tests/stories/test_edges.py, which also
compares it: UPDATE_MESSAGES=1 writes it anew. In angle brackets: what differs from run to run.
"""
NARROWER = "A release that takes less than the one in service"
AHEAD = "A sender that is ahead of its target"
PREVIEW = "The plan of what waits"
DROPPED = "A target that drops what a sender in service sends"
TOGETHER = "Sender and target in one commit"
DOOR = "A body that fits no shape, at the door"
BACK = "A way back that breaks an edge"
SHOWN = "The interface of a module"
STUB = "A typed client"
ORDER = (NARROWER, AHEAD, PREVIEW, DROPPED, TOGETHER, DOOR, BACK, SHOWN, STUB)

SHOP = """
from livetag import Module, handles, upcasts


class Shop(Module):
    def initial_state(self):
        return {{"orders": []}}

    @handles
    def order(self, {takes}) -> int:
        self.state["orders"].append({kept})
        return len(self.state["orders"])
{more}
"""
TILL = """
from livetag import Module, handles

SHOP = "shop"


class Till(Module):
    @handles
    def sell(self, what: str) -> None:
        self.send(SHOP, {call})
"""
REFUND = """
    @handles
    def refund(self, sku: str) -> None:
        self.state["orders"].remove(sku)
"""
OLD_ORDERS = """
    @upcasts("order", 1, 2)
    def _order_1(self, sku: str) -> dict:
        return {"name": sku, "count": 1}
"""
ORDERS = SHOP.format(takes="sku: str", kept="sku", more="")
REFUNDS = SHOP.format(takes="sku: str", kept="sku", more=REFUND)
COUNTS = SHOP.format(takes="name: str, count: int", kept="[name, count]", more=OLD_ORDERS)
SELLS = TILL.format(call='"order", {"sku": what}')
TAKES_BACK = TILL.format(call='"refund", {"sku": what}')


class Story:
    """A shop and a till in service, and what was printed."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.found: dict[str, str] = {}
        deployment.deploy("shop/v1.0.0", "till/v1.0.0", shop=ORDERS, till=SELLS)

    def push(self, *tags: str, toml: str = "", **modules: str) -> subprocess.CompletedProcess[str]:
        """Write, commit, tag and push."""
        for module, code in modules.items():
            self.deployment.write(
                module, {"__init__.py": code, **({"module.toml": toml} if module == "shop" else {})}
            )
        self.deployment.release(*tags)
        return self.deployment.push("main", *tags)

    def told(self, heading: str, command: str, done: subprocess.CompletedProcess[str]) -> None:
        """Compare what was printed with the file, or keep it to be written there."""
        paths = {str(self.deployment.path): "<deployment>", sys.prefix: "<venv>"}
        text = prose.transcript(command, done, paths)
        self.found[heading] = text
        if not prose.updating():
            expected = prose.written(FILE).get(heading, "")
            assert text == expected, f"if the new text is right: {prose.UPDATE}=1 pytest {__file__}"

    def versions(self) -> tuple[str | None, str | None]:
        return self.deployment.version("shop"), self.deployment.version("till")


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    with deployed(tmp_path) as deployment:
        made = Story(deployment)
        yield made
        if prose.updating():
            prose.write(made.found, ORDER, FILE, HEAD)


def test_what_takes_less_is_refused_and_both_sides_in_one_commit_pass(story: Story) -> None:
    deployment = story.deployment
    narrower = SHOP.format(takes="name: str, count: int", kept="[name, count]", more="")

    refused = story.push("shop/v2.0.0", shop=narrower)
    assert refused.returncode == 1
    assert story.versions() == ("1.0.0", "1.0.0")
    assert "shop/v2.0.0" not in deployment.tags()
    story.told(NARROWER, "git push live shop/v2.0.0", refused)

    both = story.push(
        "shop/v2.0.1",
        "till/v2.0.0",
        toml='drops = ["order"]\n',
        shop=narrower,
        till=TILL.format(call='"order", {"name": what, "count": 1}'),
    )
    assert both.returncode == 0, both.stderr
    assert story.versions() == ("2.0.1", "2.0.0")
    assert len(deployment.history()[0]["modules"]) == 2
    deployment.send("till", "sell", what="pear")
    wait_until(lambda: deployment.call("state", name="shop") == {"orders": [["pear", 1]]}, "the order came")
    story.told(TOGETHER, "git push live shop/v2.0.1 till/v2.0.0", both)


def test_a_sender_that_is_ahead_waits_and_goes_live_when_its_target_is_there(story: Story) -> None:
    deployment = story.deployment
    ahead = story.push("till/v1.1.0", till=TAKES_BACK)
    assert ahead.returncode == 0
    assert story.versions() == ("1.0.0", "1.0.0")
    assert [row["tags"] for row in deployment.status()["waiting"]] == [["till/v1.1.0"]]
    story.told(AHEAD, "git push live till/v1.1.0", ahead)
    plan = deployment.livetag("plan")
    story.told(PREVIEW, "livetag plan", plan)
    checks = json.loads(deployment.livetag("plan", "--json").stdout)["checks"]
    (wrong,) = [check for check in checks if not check["ok"]]
    assert wrong["what"] == "till → shop: refund"
    assert wrong["why"].startswith(
        "till 1.1.0 sends 'refund' to shop (till/__init__.py line 9), and shop 1.0.0 does not"
    )

    assert story.push("shop/v1.1.0", shop=REFUNDS).returncode == 0
    wait_until(lambda: story.versions() == ("1.1.0", "1.1.0"), "both are live")

    dropped = story.push("shop/v1.2.0", toml='drops = ["refund"]\n', shop=ORDERS)
    assert dropped.returncode == 0
    assert story.versions() == ("1.1.0", "1.1.0")
    story.told(DROPPED, "git push live shop/v1.2.0", dropped)


def test_an_old_shape_is_upcast_at_the_door_and_from_a_sender_in_service(story: Story) -> None:
    deployment = story.deployment
    deployment.ask("shop", "order", sku="before")
    assert story.push("shop/v2.0.0", shop=COUNTS).returncode == 0
    assert deployment.livetag("ask", "shop", "order", "sku=apple").stdout == "2\n"
    assert deployment.livetag("ask", "shop", "order", "name=plum", "count:=4").stdout == "3\n"
    deployment.send("till", "sell", what="pear")
    orders = ["before", ["apple", 1], ["plum", 4], ["pear", 1]]
    wait_until(lambda: deployment.call("state", name="shop") == {"orders": orders}, "all orders came")
    bad = deployment.livetag("ask", "shop", "order", "name=plum")
    assert bad.returncode == 1
    story.told(DOOR, "livetag ask shop order name=plum", bad)


def test_a_rollback_is_possible_though_it_breaks_an_edge_and_says_so(story: Story) -> None:
    deployment = story.deployment
    assert story.push("shop/v1.1.0", shop=REFUNDS).returncode == 0
    assert story.push("till/v1.1.0", till=TAKES_BACK).returncode == 0
    assert story.versions() == ("1.1.0", "1.1.0")
    back = deployment.livetag("rollback", "shop", "--reason", "wrong prices")
    assert back.returncode == 0, back.stderr
    assert story.versions() == ("1.0.0", "1.1.0")
    story.told(BACK, "livetag rollback shop --reason 'wrong prices'", back)


def test_the_interface_of_a_module_in_service_is_shown(story: Story) -> None:
    deployment = story.deployment
    story.told(SHOWN, "livetag interface till", deployment.livetag("interface", "till"))
    stub = deployment.livetag("interface", "shop", "--stub")
    compile(stub.stdout, "client.py", "exec")
    story.told(STUB, "livetag interface shop --stub", stub)
    (said,) = json.loads(deployment.livetag("interface", "till", "--json").stdout)["emits"]
    assert said == {"how": "send", "to": "shop", "type": "order", "where": "till/__init__.py line 9"}


@pytest.mark.skipif(prose.updating(), reason="the file is written when all have run")
def test_every_text_of_the_file_belongs_to_a_case() -> None:
    assert list(prose.written(FILE)) == list(ORDER)
