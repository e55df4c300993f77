"""A tag that is moved faster than anything can be deployed."""

from __future__ import annotations

from tests.stories.deployment import Deployment, wait_until

MOVES = 300
TAG = "counter/v1.0.0"


def counter(name: str) -> str:
    return f"""
        from livetag import Module, handles

        class Counter(Module):
            def initial_state(self):
                return {{"total": 0}}

            @handles
            def tick(self) -> list:
                self.state["total"] += 1
                return [{name!r}, self.state["total"]]
    """


def test_a_storm_of_300_moves_ends_with_the_last_one_live(deployment: Deployment) -> None:
    commits = {}
    for name in ("red", "green", "blue"):
        deployment.write("counter", counter(name))
        commits[name] = deployment.release(message=name)
    deployment.work.tag(TAG)
    assert deployment.push("main", TAG).returncode == 0
    names = [*commits]

    for number in range(MOVES):
        deployment.git("update-ref", f"refs/tags/{TAG}", commits[names[number % 3]])
        if number % 50 == 0:
            deployment.ask("counter", "tick")
    last = names[(MOVES - 1) % 3]
    assert last == "blue"
    deployment.git("update-ref", f"refs/tags/{TAG}", commits["green"])

    wait_until(
        lambda: deployment.status()["modules"]["counter"]["commit"] == commits["green"], "green is live"
    )
    assert deployment.ask("counter", "tick") == ["green", MOVES // 50 + 1], "with the state of all that time"
    wait_until(lambda: deployment.status()["transaction"] is None, "nothing is under way")
    history = deployment.history()
    assert len(history) < MOVES / 2, "moves that came too fast were passed over"
    assert {txn["outcome"] for txn in history} <= {"committed", "unchanged"}
    wait_until(lambda: deployment.git("rev-parse", "refs/live/counter") == commits["green"], "git log has it")
    assert deployment.status()["quarantine"] == []
