"""Several modules: changed together or not at all, and composed, named and configured by `app.toml`."""

from __future__ import annotations

import pytest

from orchestrator.control.client import HostRefused
from tests.stories.deployment import Deployment, wait_until


def speaker(word: str) -> str:
    """Write a module that says a word, and how often it has done so."""
    return f"""
        from livetag import Module, handles

        class Speaker(Module):
            def initial_state(self):
                return {{"said": 0}}

            @handles
            def say(self) -> str:
                self.state["said"] += 1
                return f"{word} {{self.config.get('to', 'all')}} {{self.state['said']}}"
    """


UNFIT = """
    from livetag import Module, handles

    class Speaker(Module):
        @handles
        def say(self) -> str:
            return "never"

        async def prepare(self) -> None:
            raise RuntimeError("out of tune")
"""
APP = """
    [app]
    name = "choir"
    [modules.alto]
    package = "singer"
    config = { to = "left" }
    [modules.tenor]
    package = "singer"
    also = ["solo"]
    config = { to = "right" }
    [modules.door]
    config = { to = { env = "CHOIR_DOOR" } }
"""


def test_two_packages_of_one_commit_are_one_transaction(deployment: Deployment) -> None:
    deployment.deploy("left/v1.0.0", "right/v1.0.0", left=speaker("one"), right=speaker("one"))
    assert [deployment.ask(m, "say") for m in ("left", "right")] == ["one all 1", "one all 1"]
    commit_id = deployment.deploy("left/v1.1.0", "right/v1.1.0", left=speaker("two"), right=speaker("two"))

    assert [deployment.ask(m, "say") for m in ("left", "right")] == ["two all 2", "two all 2"]
    newest, first = deployment.history()
    assert [(m["module"], m["from"], m["to"]) for m in first["modules"]] == [
        ("left", None, "1.0.0"),
        ("right", None, "1.0.0"),
    ]
    assert [(m["module"], m["from"], m["to"]) for m in newest["modules"]] == [
        ("left", "1.0.0", "1.1.0"),
        ("right", "1.0.0", "1.1.0"),
    ]
    told = deployment.deployments()[-1]
    assert (told["Module"], told["To"], told["Release-Commit"]) == (
        ["left", "right"],
        ["1.1.0", "1.1.0"],
        [commit_id, commit_id],
    )


def test_if_one_of_two_packages_fails_both_stay_old(deployment: Deployment) -> None:
    deployment.deploy("left/v1.0.0", "right/v1.0.0", left=speaker("one"), right=speaker("one"))
    deployment.write("left", speaker("two"))
    deployment.write("right", UNFIT)
    commit_id = deployment.release("left/v1.1.0", "right/v1.1.0")

    pushed = deployment.push("main", "left/v1.1.0", "right/v1.1.0")

    assert pushed.returncode == 1
    assert "out of tune" in pushed.stderr
    assert deployment.tags() == ["left/v1.0.0", "right/v1.0.0"]
    assert [deployment.ask(m, "say") for m in ("left", "right")] == ["one all 1", "one all 1"]
    assert {(q["module"], q["commit"]) for q in deployment.status()["quarantine"]} == {
        ("left", commit_id),
        ("right", commit_id),
    }
    assert deployment.history()[0]["outcome"] == "rolled_back"


def test_a_rollback_takes_the_whole_transaction_back(deployment: Deployment) -> None:
    deployment.deploy("left/v1.0.0", "right/v1.0.0", left=speaker("one"), right=speaker("one"))
    deployment.deploy("left/v1.1.0", "right/v1.1.0", left=speaker("two"), right=speaker("two"))

    done = deployment.livetag("rollback", "left", "--reason", "too loud")

    assert done.returncode == 0, done.stderr
    assert [deployment.ask(m, "say") for m in ("left", "right")] == ["one all 1", "one all 1"]
    assert {"left/v1.1.1", "right/v1.1.1"} <= set(deployment.tags())
    assert len(deployment.history()) == 3, "one transaction took both back"


def test_tags_of_different_commits_are_transactions_of_their_own(deployment: Deployment) -> None:
    deployment.write("left", speaker("one"))
    deployment.release("left/v1.0.0")
    deployment.write("right", UNFIT)
    deployment.release("right/v1.0.0")

    pushed = deployment.push("main", "left/v1.0.0", "right/v1.0.0")

    assert pushed.returncode == 1
    assert deployment.tags() == ["left/v1.0.0"]
    assert deployment.ask("left", "say") == "one all 1"


def test_a_composition_names_configures_and_multiplies_modules(deployment: Deployment) -> None:
    deployment.work.write("app.toml", APP.replace('{ env = "CHOIR_DOOR" }', '"street"'))
    deployment.write("singer", speaker("la"))
    deployment.deploy("app/v1.0.0", "singer/v1.0.0", door=speaker("knock"))

    status = deployment.status()
    assert status["app"] == "choir"
    assert set(status["modules"]) == {"alto", "tenor", "door"}
    assert status["modules"]["door"]["tag"] == "app/v1.0.0", "without a tag of its own: the composition's"
    assert [deployment.ask(name, "say") for name in ("alto", "tenor", "solo", "door")] == [
        "la left 1",
        "la right 1",
        "la right 2",
        "knock street 1",
    ]

    # A new release of the package moves all that is made from it, each with its own state.
    deployment.deploy("singer/v1.1.0", singer=speaker("do"))
    assert [deployment.ask(name, "say") for name in ("alto", "solo")] == ["do left 2", "do right 3"]
    assert [m["module"] for m in deployment.history()[0]["modules"]] == ["alto", "tenor"]

    # A new composition changes only what it changes: one is configured anew, one leaves.
    app = APP.replace('"left"', '"middle"').partition("[modules.door]")[0]
    deployment.work.write("app.toml", app)
    deployment.deploy("app/v1.1.0")
    assert [deployment.ask(name, "say") for name in ("alto", "solo")] == ["do middle 3", "do right 4"]
    assert set(deployment.status()["modules"]) == {"alto", "tenor"}
    refused(deployment, "door")
    assert [(m["module"], m["to"]) for m in deployment.history()[0]["modules"]] == [
        ("alto", "1.1.0"),
        ("door", None),
    ]

    # And the composition goes back as it came: by its tag.
    assert deployment.push(":app/v1.1.0").returncode == 0
    assert deployment.ask("alto", "say") == "do left 4"
    assert set(deployment.status()["modules"]) == {"alto", "tenor", "door"}


def test_a_module_that_left_gets_its_state_back_when_it_returns(deployment: Deployment) -> None:
    deployment.work.write("app.toml", "[modules.left]\n[modules.right]\n")
    deployment.deploy("app/v1.0.0", left=speaker("one"), right=speaker("one"))
    assert deployment.ask("left", "say") == "one all 1"
    deployment.work.write("app.toml", "[modules.right]\n")
    deployment.deploy("app/v1.1.0")
    assert set(deployment.status()["modules"]) == {"right"}

    assert deployment.push(":app/v1.1.0").returncode == 0

    assert deployment.ask("left", "say") == "one all 2"


def test_a_module_that_the_composition_disables_stays_loaded_and_out_of_service(
    deployment: Deployment,
) -> None:
    deployment.work.write("app.toml", "[modules.left]\n[modules.right]\n")
    deployment.deploy("app/v1.0.0", left=speaker("one"), right=speaker("one"))
    assert deployment.ask("left", "say") == "one all 1"

    deployment.work.write("app.toml", "[modules.left]\nenabled = false\n[modules.right]\n")
    deployment.deploy("app/v1.1.0")
    with pytest.raises(HostRefused, match=r"left is disabled: app\.toml says enabled = false"):
        deployment.ask("left", "say")
    assert set(deployment.status()["modules"]) == {"left", "right"}
    assert deployment.call("state", name="left") == {"said": 1}

    deployment.stop()
    deployment.start()
    with pytest.raises(HostRefused, match="left is disabled"):
        deployment.ask("left", "say")
    deployment.deploy(
        "left/v1.1.0", left=speaker("two")
    )  # a release of it comes in, and stays out of service
    assert deployment.version("left") == "1.1.0"
    with pytest.raises(HostRefused, match="left is disabled"):
        deployment.ask("left", "say")

    assert deployment.push(":app/v1.1.0").returncode == 0
    assert deployment.ask("left", "say") == "two all 2"


def test_two_names_are_exchanged_in_one_switch_and_nothing_is_loaded(deployment: Deployment) -> None:
    app = '[modules.left]\nalso = ["{}"]\n[modules.right]\nalso = ["{}"]\n'
    deployment.work.write("app.toml", app.format("first", "second"))
    deployment.deploy("app/v1.0.0", left=speaker("left"), right=speaker("right"))
    assert [deployment.ask(n, "say") for n in ("first", "second")] == ["left all 1", "right all 1"]
    deployment.work.write("app.toml", app.format("second", "first"))
    deployment.deploy("app/v1.1.0")
    assert [deployment.ask(n, "say") for n in ("first", "second")] == ["right all 2", "left all 2"]
    assert len(deployment.history()) == 2


def test_a_broken_composition_fails_the_push_and_changes_nothing(deployment: Deployment) -> None:
    deployment.deploy("left/v1.0.0", left=speaker("one"))
    deployment.work.write("app.toml", "[modules.left]\nenabld = true\n")
    deployment.release("app/v1.0.0")

    pushed = deployment.push("main", "app/v1.0.0")

    assert pushed.returncode == 1
    assert "enabld" in pushed.stderr
    assert deployment.tags() == ["left/v1.0.0"]
    assert deployment.ask("left", "say") == "one all 1"


def test_a_composition_whose_secret_is_missing_is_refused_and_never_journaled(deployment: Deployment) -> None:
    deployment.work.write("app.toml", APP)
    deployment.write("singer", speaker("la"))
    deployment.write("door", speaker("knock"))
    deployment.release("app/v1.0.0", "singer/v1.0.0")

    pushed = deployment.push("main", "app/v1.0.0", "singer/v1.0.0")

    assert pushed.returncode == 1
    assert "CHOIR_DOOR" in pushed.stderr
    assert deployment.status()["modules"] == {}


def test_a_module_waits_for_what_it_requires_and_goes_live_with_it(deployment: Deployment) -> None:
    deployment.deploy("clock/v1.0.0", clock=speaker("tick"))
    deployment.write(
        "bell",
        {"__init__.py": speaker("ding"), "module.toml": '[requires]\nmodules = { clock = ">=1.1" }\n'},
    )
    deployment.release("bell/v1.0.0")

    pushed = deployment.push("main", "bell/v1.0.0")

    assert pushed.returncode == 0, pushed.stderr
    assert "waiting" in pushed.stderr
    assert "clock 1.0.0" in pushed.stderr
    refused(deployment, "bell")

    deployment.deploy("clock/v1.1.0", clock=speaker("tock"))
    wait_until(lambda: deployment.version("bell") == "1.0.0", "bell is live with the clock it needs")
    assert deployment.ask("bell", "say") == "ding all 1"


def refused(deployment: Deployment, module: str) -> None:
    """Nobody of that name answers."""
    with pytest.raises(HostRefused, match=module):
        deployment.ask(module, "say")
