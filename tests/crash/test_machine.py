"""Pushes, tags, messages, commands and deaths at random, on a real host with real Git, against a model of a page.

Reproduce a failure by the steps that Hypothesis prints: keep them as an example in `KEPT`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.crash.deaths import Deaths
from tests.crash.notes import make_base
from tests.crash.victim import Victim


@contextmanager
def machine(base: Victim) -> Iterator[Deaths]:
    """One deployment, for steps that are written down."""
    made = machine_of(base)()
    try:
        yield made
    finally:
        made.teardown()


def machine_of(start_from: Victim) -> type[Deaths]:
    class Machine(Deaths):
        base = start_from

    return Machine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return make_base(tmp_path_factory.mktemp("machine") / "base")


def run(base: Victim, examples: int, steps: int, *, derandomize: bool) -> None:
    run_state_machine_as_test(
        machine_of(base),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


Steps = Sequence[tuple[str, dict[str, Any]]]
KEPT: dict[str, Steps] = {
    "every rule once": [
        ("push", {"module": "counter", "kind": "good"}),
        ("send", {"module": "ledger", "many": 5}),
        ("kill_after_messages", {"module": "ledger", "many": 9}),
        ("push", {"module": "counter", "kind": "broken"}),
        ("restart", {"module": "counter", "many": 9}),
        ("retry", {}),
        ("drop", {"module": "counter"}),
        ("drop", {"module": "ledger"}),
        ("roll_back", {}),
        ("hold", {}),
        ("push", {"module": "ledger", "kind": "good"}),
        ("restart", {"module": "ledger", "many": 3}),
        ("unhold", {}),
        ("stop", {}),
        ("push", {"module": "ledger", "kind": "broken"}),
        ("start", {}),
        ("ask", {"module": "ledger"}),
        ("delete", {"module": "ledger"}),
        ("kill_in_a_push", {"module": "ledger", "delay_s": 0.2}),
        ("pause_in_a_push", {"module": "counter", "delay_s": 0.3}),
        ("push_what_kills_the_host", {"module": "counter"}),
        ("move", {"module": "counter", "kind": "good"}),
        ("kill", {}),
        ("start", {}),
    ],
    "a moved tag whose release is refused": [
        ("push", {"module": "counter", "kind": "good"}),
        ("move", {"module": "counter", "kind": "broken"}),
    ],
    "rollbacks in a row go further back, until there is nothing before": [
        ("push", {"module": "counter", "kind": "good"}),
        ("push", {"module": "counter", "kind": "good"}),
        ("push_what_kills_the_host", {"module": "counter"}),
        ("roll_back", {}),
        ("roll_back", {}),
        ("roll_back", {}),
    ],
    "a way back that serves again is no way back any more": [
        ("push", {"module": "counter", "kind": "good"}),
        ("roll_back", {}),
        ("push", {"module": "counter", "kind": "good"}),
        ("delete", {"module": "counter"}),
        ("roll_back", {}),
    ],
}


@pytest.mark.parametrize("name", KEPT)
def test_steps_that_were_kept_do_what_the_model_says(base: Victim, name: str) -> None:
    with machine(base) as made:
        for step, arguments in KEPT[name]:
            getattr(made, step)(**arguments)
            made.the_host_is_what_the_model_says()


def test_deaths_pushes_and_messages_at_random_do_what_the_model_says(base: Victim) -> None:
    run(base, examples=2, steps=10, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_same_for_longer(base: Victim) -> None:
    run(base, examples=int(os.environ.get("LIVETAG_EXAMPLES", "40")), steps=30, derandomize=False)
