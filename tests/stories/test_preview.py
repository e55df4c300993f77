"""`livetag plan` and `git push -o plan` on a real host: they say what would happen, and nothing has happened after.

What they print is kept in tests/plans.txt, to be read as prose (see `prose`).
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stories import prose
from tests.stories.counter_code import COUNTER
from tests.stories.counter_code import VERSION_3 as BY_KEY
from tests.stories.deployment import Deployment, deployed, wait_until

FILE = Path(__file__).parents[1] / "plans.txt"
HEAD = """\
What livetag says of what it would do, case by case. Written by tests/stories/test_preview.py, which also compares it:
UPDATE_MESSAGES=1 writes it anew. In angle brackets: what differs from run to run.
"""

UNFIT = (
    COUNTER
    + """
        async def self_test(self) -> None:
            assert self.state["total"] < 0, "the total is not below zero"
"""
)
SLOW = (
    COUNTER.replace('"total": 0', '"total": 0').replace(
        "def initial_state", "state_version = 2\n\n        def initial_state"
    )
    + """
    @Counter.migrates(1, 2)
    def up(old: dict) -> State:
        import time
        time.sleep(0.08)
        return {"total": old["total"]}

    @Counter.migrates(2, 1)
    def down(new: State) -> dict:
        return {"total": new["total"]}
"""
)
METER = COUNTER.replace("Counter", "Meter")
APP = """
    [modules.counter]
    also = ["tally"]
    [modules.second]
    package = "counter"
    config = { start = 7 }
"""
CASES: Mapping[str, tuple[Mapping[str, str], tuple[str, ...], int]] = {
    "A release that migrates the state": (
        {"modules/counter/__init__.py": BY_KEY}, ("counter/v1.1.0",), 0
    ),
    "A release that drops a message type": (
        {"modules/counter/__init__.py": COUNTER.replace("def tick", "def tock")}, ("counter/v1.1.0",), 1
    ),
    "A release that fails its trial": ({"modules/counter/__init__.py": UNFIT}, ("counter/v1.1.0",), 1),
    "A migration that takes too long": ({"modules/counter/__init__.py": SLOW}, ("counter/v1.1.0",), 1),
    "A release whose import of another module is seen before it is staged": (
        {"modules/counter/__init__.py": "import meter\n", "modules/meter/__init__.py": METER}, ("counter/v1.1.0",), 1
    ),
    "A release that waits for another module": (
        {"modules/counter/module.toml": '[requires]\nmodules = { clock = ">=2" }\n'}, ("counter/v1.1.0",), 0
    ),
    "Two modules of one commit": (
        {"modules/counter/__init__.py": BY_KEY, "modules/meter/__init__.py": METER},
        ("counter/v1.1.0", "meter/v1.0.0"),
        0,
    ),
    "A composition that adds a module and binds a name": ({"app.toml": APP}, ("app/v1.0.0",), 0),
    "A composition that removes the module": ({"app.toml": "[modules]\n"}, ("app/v1.0.0",), 0),
    "The same code under a higher tag": ({}, ("counter/v1.1.0",), 0),
    "A lower version": ({"modules/counter/__init__.py": BY_KEY}, ("counter/v0.9.0",), 0),
    "A pre-release": ({"modules/counter/__init__.py": BY_KEY}, ("counter/v1.1.0-rc.1",), 0),
}  # fmt: skip
PUSHED = "A push with -o plan"
TODAY = "A tag that is live"
LATER = "A way back to an older release"
ROLLBACK = "A rollback, shown before it is done"
QUARANTINED = "A commit that is in quarantine"
UNTRIED = "A plan without its trial"
WITHOUT_TAG = "A plan of all that the tags ask for"
REFUSED = "A push with -o plan of what would be refused"
WAITING = "A push with -o plan of what would wait"
HELD = "A release while a person holds the module"
DRIFT = "A release that ends what a person has changed"
ORDER = (
    *CASES,
    UNTRIED,
    PUSHED,
    REFUSED,
    WAITING,
    TODAY,
    WITHOUT_TAG,
    LATER,
    ROLLBACK,
    QUARANTINED,
    HELD,
    DRIFT,
)


def footprint(deployment: Deployment) -> Mapping[str, Any]:
    """All that a plan could have changed: refs, objects, journal, stage, the release table, the clone, temporary files."""
    with closing(sqlite3.connect(f"file:{deployment.place.journal}?mode=ro", uri=True)) as journal:
        records = journal.execute("SELECT seq, fact FROM journal ORDER BY seq").fetchall()
        images = journal.execute("SELECT name FROM image").fetchall()
    status = deployment.status()
    clone, store = deployment.work.path / ".git", deployment.place.store
    return {
        "refs": deployment.git("for-each-ref"),
        "objects": sorted(str(f) for f in (store / "objects").rglob("*") if f.is_file()),
        # without what the host writes by itself when it has run for a while
        "journal": (
            [kind for fact in records if (kind := json.loads(fact[1])["kind"]) not in {"Settled", "Served"}],
            images,
        ),
        "stage": sorted(f"{f} {f.stat().st_mtime_ns}" for f in deployment.place.stage.rglob("*")),
        "modules": {n: (m["version"], m["tag"], m["mailbox"]) for n, m in status["modules"].items()},
        "quarantine": status["quarantine"],
        "clone": sorted(f"{f} {f.stat().st_mtime_ns}" for f in clone.rglob("*") if f.is_file()),
        "temporary": sorted(f.name for f in (deployment.path.parent / "tmp").glob("livetag-plan-*")),
    }


def at_rest(deployment: Deployment) -> Mapping[str, Any]:
    """The footprint once all that follows a deploy is done: it is confirmed, and in the history."""

    def done() -> bool:
        with closing(sqlite3.connect(f"file:{deployment.place.journal}?mode=ro", uri=True)) as journal:
            facts = [json.loads(fact)["kind"] for (fact,) in journal.execute("SELECT fact FROM journal")]
        confirmed = facts.count("Committed") == facts.count("Confirmed")
        return confirmed and len(deployment.deployments()) >= len(deployment.history())

    wait_until(done, "what was deployed is confirmed and in the history")
    return footprint(deployment)


@contextmanager
def hosted(path: Path) -> Iterator[Deployment]:
    """A deployment whose host has a folder for temporary files that nobody else uses."""
    (path / "tmp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(path / "tmp"))
        with deployed(path) as deployment:
            yield deployment


class Story:
    """A counter 1.0.0 serves with a total of 3; what is planned is written in the clone and taken out again."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.found: dict[str, str] = {}
        self.good = deployment.deploy("counter/v1.0.0", counter=COUNTER)
        assert deployment.ask("counter", "tick", by=3) == 3

    @contextmanager
    def written(self, files: Mapping[str, str], *tags: str) -> Iterator[str]:
        """A commit with these files and tags in the clone, for as long as the block runs."""
        work = self.deployment.work
        for path, text in files.items():
            work.write(path, text)
        commit_id = work.commit("Planned")
        for tag in tags:
            work.tag(tag)
        try:
            yield commit_id
        finally:
            work.git("tag", "-d", *tags)
            work.git("reset", "--hard", "--quiet", self.good)

    def plan(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.deployment.livetag("plan", *args)

    def json(self, *args: str) -> Any:
        return json.loads(self.plan("--json", *args).stdout)

    @property
    def repo(self) -> tuple[str, str]:
        return "--repo", str(self.deployment.work.path)

    def told(self, heading: str, command: str, done: subprocess.CompletedProcess[str]) -> None:
        """Compare what was printed with plans.txt, or keep it to be written there."""
        paths = {
            str(self.deployment.work.path): "<clone>",
            str(self.deployment.path): "<deployment>",
            sys.prefix: "<venv>",
        }
        text = prose.transcript(command, done, paths)
        self.found[heading] = text
        if not prose.updating():
            expected = prose.written(FILE).get(heading, "")
            assert text == expected, f"if the new text is right: {prose.UPDATE}=1 pytest {__file__}"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with hosted(tmp_path_factory.mktemp("plan")) as deployment:
        made = Story(deployment)
        yield made
        if prose.updating():
            prose.write(made.found, ORDER, FILE, HEAD)


@pytest.mark.parametrize("heading", CASES, ids=lambda heading: heading.replace(" ", "-"))
def test_a_plan_out_of_a_clone_says_what_would_happen_and_changes_nothing(story: Story, heading: str) -> None:
    files, tags, exit_code = CASES[heading]
    with story.written(files, *tags):
        before = at_rest(story.deployment)
        done = story.plan(*story.repo, *tags)
        after = footprint(story.deployment)

    assert done.returncode == exit_code, done.stdout + done.stderr
    assert after == before
    story.told(heading, f"livetag plan --repo <clone> {' '.join(tags)}", done)


def test_a_plan_can_leave_the_trial_out_and_then_says_that_nothing_was_measured(story: Story) -> None:
    with story.written({"modules/counter/__init__.py": BY_KEY}, "counter/v1.1.0"):
        done = story.plan("--no-trial", *story.repo, "counter/v1.1.0")
    assert done.returncode == 0, done.stderr
    assert "trial: passed" not in done.stdout
    story.told(UNTRIED, "livetag plan --no-trial --repo <clone> counter/v1.1.0", done)


def test_a_push_with_the_plan_option_says_the_same_and_changes_nothing_but_objects(story: Story) -> None:
    files, tags, _ = CASES["Two modules of one commit"]
    with story.written(files, *tags):
        before = at_rest(story.deployment)
        done = story.deployment.push("-o", "plan", *tags)
        after = footprint(story.deployment)
    assert done.returncode == 1, "Git must not believe that the tags were taken"
    before, after = ({k: v for k, v in each.items() if k != "objects"} for each in (before, after))
    assert after == before
    story.told(PUSHED, f"git push -o plan live {' '.join(tags)}", done)


@pytest.mark.parametrize(
    ("heading", "like"),
    [
        (REFUSED, "A release that drops a message type"),
        (WAITING, "A release that waits for another module"),
    ],
)
def test_a_push_with_the_plan_option_says_why_not(story: Story, heading: str, like: str) -> None:
    files, tags, _ = CASES[like]
    with story.written(files, *tags):
        done = story.deployment.push("-o", "plan", *tags)
    assert done.returncode == 1
    assert story.deployment.tags() == ["counter/v1.0.0"]
    story.told(heading, f"git push -o plan live {' '.join(tags)}", done)


def test_a_plan_as_json_has_the_steps_and_the_checks(story: Story) -> None:
    with story.written({"modules/counter/__init__.py": BY_KEY}, "counter/v1.1.0"):
        found = story.json(*story.repo, "counter/v1.1.0")
    (step,), (transaction,) = found["steps"], found["transactions"]
    assert (step["module"], step["does"], step["from"], step["to"]) == ("counter", "swap", "1.0.0", "1.1.0")
    assert (step["is"], step["state"], step["why"]) == ("ready", [1, 2, 3], "")
    assert all(check["ok"] and check["why"] for check in found["checks"])
    whats = {check["what"]: check["why"] for check in found["checks"]}
    assert whats["counter: way back 3→1"] == "counter: way back 3→1: yes, loses by_key"
    assert transaction["by"] == ["counter/v1.1.0"]
    assert transaction["pause"]["expected_us"] > 0
    assert "migration" in transaction["pause"]["text"]
    assert (found["ok"], found["tag"]["verdict"], found["tag"]["pushed"]) == (True, "would go", False)


def test_a_plan_of_what_is_not_there_says_where_to_look(story: Story, tmp_path: Path) -> None:
    unpushed = story.plan("counter/v7.0.0")
    assert unpushed.returncode == 1
    assert (
        "has no tag counter/v7.0.0. Push it first: git push live counter/v7.0.0; or have it planned"
        in unpushed.stderr
    )
    untagged = story.plan(*story.repo, "counter/v7.0.0")
    assert untagged.returncode == 1
    assert "has no tag counter/v7.0.0. Tag a commit there first: git tag counter/v7.0.0." in untagged.stderr
    nowhere = story.plan("--repo", str(tmp_path), "counter/v7.0.0")
    assert nowhere.returncode == 1
    assert "is no Git repository and lies in none. Name a clone, or its folder." in nowhere.stderr
    tagless = story.plan(*story.repo)
    assert tagless.returncode == 1
    assert "--repo needs a TAG that is there: livetag plan --repo PATH TAG." in tagless.stderr


def test_a_plan_of_tags_that_are_pushed_says_what_they_mean_today(story: Story, tmp_path: Path) -> None:
    live = story.plan("counter/v1.0.0")
    assert live.returncode == 0
    story.told(TODAY, "livetag plan counter/v1.0.0", live)
    all_of_them = story.plan()
    assert all_of_them.returncode == 0
    story.told(WITHOUT_TAG, "livetag plan", all_of_them)


def test_a_way_back_is_planned_like_any_other_release(tmp_path: Path) -> None:
    with hosted(tmp_path) as deployment:
        story = Story(deployment)
        second = deployment.deploy("counter/v1.1.0", counter=BY_KEY)
        deployment.work.tag("counter/v1.2.0", story.good)
        before = at_rest(deployment)
        done = story.plan(*story.repo, "counter/v1.2.0")
        assert done.returncode == 0, done.stderr
        assert footprint(deployment) == before
        assert deployment.status()["modules"]["counter"]["commit"] == second
        story.told(LATER, "livetag plan --repo <clone> counter/v1.2.0", done)

        assert deployment.livetag("hold", "counter", "--reason", "the exam runs").returncode == 0
        before = at_rest(deployment)
        preview = deployment.livetag("rollback", "--dry-run")
        assert preview.returncode == 0, preview.stderr
        assert footprint(deployment) == before
        story.told(ROLLBACK, "livetag rollback --dry-run", preview)
        assert deployment.livetag("unhold", "counter").returncode == 0

        deployment.work.git("tag", "-d", "counter/v1.2.0")
        deployment.write("counter", UNFIT)
        deployment.release("counter/v1.2.0", "counter/v1.3.0")
        assert deployment.push("counter/v1.2.0").returncode == 1
        done = story.plan(*story.repo, "counter/v1.3.0")
        assert done.returncode == 1
        story.told(QUARANTINED, "livetag plan --repo <clone> counter/v1.3.0", done)
        if prose.updating():
            prose.write(story.found, ORDER, FILE, HEAD)


def test_a_rollback_says_what_the_records_of_a_table_lose(tmp_path: Path) -> None:
    first = """
        from typing import TypedDict
        from livetag import Module, Table, handles

        class Record(TypedDict):
            hops: int

        class Routes(Module):
            routes: Table[str, Record] = Table(version=1)

            def initial_state(self) -> dict:
                return {}

            @handles
            def put(self, key: str) -> None:
                self.routes[key] = {"hops": 1}
        """
    second = (
        (
            first.replace("hops: int", "hops: int\n            note: str")
            .replace("Table(version=1)", "Table(version=2)")
            .replace('{"hops": 1}', '{"hops": 1, "note": "far"}')
        )
        + """
        @Routes.migrates("routes", 1, 2)
        def up(key: str, old: dict) -> Record:
            return {**old, "note": ""}

        @Routes.migrates("routes", 2, 1)
        def down(key: str, new: Record) -> dict:
            return {"hops": new["hops"]}
        """
    )
    with hosted(tmp_path) as deployment:
        deployment.deploy("routes/v1.0.0", routes=first)
        deployment.deploy("routes/v1.1.0", routes=second)
        deployment.ask("routes", "put", key="a")
        preview = deployment.livetag("rollback", "routes", "--dry-run")
        assert (
            "what 1.0.0 cannot hold is lost, and kept nowhere: routes.note. Keep it first" in preview.stdout
        )
        assert "way back" not in preview.stdout
        assert deployment.livetag("rollback", "routes", "--reason", "test").returncode == 0
        assert deployment.call("plan", tags=["routes/v1.1.1"])["ok"]


def test_what_persons_have_said_is_shown_in_a_plan(tmp_path: Path) -> None:
    with hosted(tmp_path) as deployment:
        story = Story(deployment)
        assert deployment.livetag("hold", "counter", "--reason", "the exam runs").returncode == 0
        with story.written({"modules/counter/__init__.py": BY_KEY}, "counter/v1.1.0"):
            before = at_rest(deployment)
            held = story.plan(*story.repo, "counter/v1.1.0")
            assert footprint(deployment) == before
        assert held.returncode == 0, held.stdout + held.stderr
        story.told(HELD, "livetag plan --repo <clone> counter/v1.1.0", held)

        assert deployment.livetag("unhold", "counter").returncode == 0
        disabled = deployment.livetag("disable", "counter", "--reason", "it counts twice")
        assert disabled.returncode == 0, disabled.stderr
        with story.written({"modules/counter/__init__.py": BY_KEY}, "counter/v1.1.0"):
            drifted = story.plan(*story.repo, "counter/v1.1.0")
        assert drifted.returncode == 0, drifted.stdout + drifted.stderr
        story.told(DRIFT, "livetag plan --repo <clone> counter/v1.1.0", drifted)
        if prose.updating():
            prose.write(story.found, ORDER, FILE, HEAD)


@pytest.mark.skipif(prose.updating(), reason="the file is written when all have run")
def test_every_text_of_the_file_belongs_to_a_case() -> None:
    assert list(prose.written(FILE)) == list(ORDER)
