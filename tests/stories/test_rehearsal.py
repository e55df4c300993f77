"""What is rehearsed before a release goes live, as a push tells it and as the records keep it, on a real host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.counter_code import COUNTER
from tests.stories.deployment import Deployment, deployed, wait_until

WITHOUT_STEPS = COUNTER.replace(
    "        total: int\n", "        total: int\n        by_key: dict[str, int]\n"
).replace('{"total": 0}', '{"total": 0, "by_key": {}}')
BY_KEY = WITHOUT_STEPS.replace("def initial_state", "state_version = 2\n\n        def initial_state")
UP = """
    @Counter.migrates(1, 2)
    def up(old: dict) -> State:
        import time
        time.sleep(SECONDS)
        return {"total": old["total"], "by_key": {}}

    @Counter.migrates(2, 1)
    def down(new: State) -> dict:
        return {"total": new["total"]}
"""


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Deployment]:
    with deployed(tmp_path) as deployment:
        deployment.deploy("counter/v1.0.0", counter=COUNTER)
        deployment.ask("counter", "tick", by=3)
        yield deployment


def pushed(deployment: Deployment, tag: str, source: str) -> tuple[int, str]:
    deployment.write("counter", source)
    deployment.release(tag)
    done = deployment.push("main", tag)
    return done.returncode, re.sub(r"^remote: ?| +$", "", done.stderr, flags=re.MULTILINE)


def test_a_refused_release_gets_its_missing_steps_and_with_them_pasted_it_goes_live_and_back(
    counter: Deployment,
) -> None:
    code, said = pushed(counter, "counter/v1.1.0", BY_KEY)
    assert code == 1
    assert "there is no way back from state version 2 to 1" in said
    _, _, paste = said.partition("To paste, and to complete:\n")
    steps = "\n".join(line.removeprefix("    ") for line in paste.partition("\nTo ")[0].splitlines())
    indented = "".join(f"    {line}\n" for line in steps.splitlines())
    code, said = pushed(counter, "counter/v1.1.1", f"{BY_KEY}\n{indented}")
    assert code == 0, said
    assert "counter: way back 2→1: yes, loses by_key" in said
    assert counter.ask("counter", "tick", by=1) == 4
    back = counter.livetag("rollback", "--reason", "for a look")
    assert back.returncode == 0, back.stderr
    assert counter.ask("counter", "tick", by=1) == 5


def test_a_pause_that_would_be_too_long_is_refused_and_the_figure_is_in_every_record(
    counter: Deployment,
) -> None:
    code, said = pushed(counter, "counter/v1.1.0", BY_KEY + UP.replace("SECONDS", "0.09"))
    assert code == 1
    found = re.search(
        r"refused, tag taken back: the migration would take about (\d+\.\d) ms, over limits.pause_ms = 50",
        said,
    )
    assert found, said
    assert float(found[1]) > 85
    newest = counter.history()[0]
    assert (newest["outcome"], newest["pause_us"]) == ("rolled_back", 0)
    assert newest["predicted_us"] == pytest.approx(float(found[1]) * 1000, abs=100)
    assert counter.status()["quarantine"], "to try it again would not help"
    wait_until(lambda: len(counter.deployments()) == 2, "it is in the history")
    assert int(counter.deployments()[-1]["Predicted-Us"][0]) == round(newest["predicted_us"])
    code, said = pushed(counter, "counter/v1.1.1", BY_KEY + UP.replace("SECONDS", "0"))
    assert code == 0, said
    newest = counter.history()[0]
    assert newest["predicted_us"] > 0
    assert newest["pause_us"] > 0
    assert counter.ask("counter", "tick", by=1) == 4


def test_a_push_says_on_what_it_was_tried_and_a_way_back_too(counter: Deployment) -> None:
    code, said = pushed(counter, "counter/v1.1.0", BY_KEY + UP.replace("SECONDS", "0"))
    assert code == 0, said
    assert (
        "counter/v1.1.0: planned: tried out in a child process: passed; counter: tried on the whole state (8 B); "
        "counter: way back 2→1: yes, loses by_key\n"
    ) in said
    counter.work.git("tag", "counter/v1.1.1", "counter/v1.0.0^{commit}")
    done = counter.push("counter/v1.1.1")
    assert done.returncode == 0, done.stderr
    assert "counter: tried on the whole state (16 B); counter: going back 2→1: loses by_key" in done.stderr


def test_a_step_down_that_hangs_is_found_before_messages_wait_for_it(counter: Deployment) -> None:
    hangs = (BY_KEY + UP.replace("SECONDS", "0")).replace(
        '        return {"total": new["total"]}',
        '        while new["total"] == 9: pass\n        return {"total": new["total"]}',
    )
    (counter.path / "livetag.toml").write_text("[trial]\ntime_s = 3.0\n")
    counter.stop()
    counter.start()
    assert pushed(counter, "counter/v1.1.0", hangs)[0] == 0
    assert counter.ask("counter", "tick", by=6) == 9
    back = counter.livetag("rollback", "--reason", "for a look")
    assert back.returncode == 1
    said = re.sub(r"\s+", " ", back.stdout + back.stderr)
    assert (
        "counter cannot go from 1.1.0 to 1.0.0: counter 1.1.0 failed its trial: the way back, tried on a copy"
        in said
    )
    assert "did not end within" in said
    assert counter.version() == "1.1.0"
    newest = counter.history()[0]
    assert (newest["outcome"], newest["pause_us"]) == ("rolled_back", 0)
    assert counter.ask("counter", "tick", by=1) == 10
