"""The scenarios of the crash matrix: what changes a deployment on disk, and what may serve afterwards."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.crash.victim import Scenario, Served, Victim, run, voice
from tests.stories.deployment import wait_until

MODULES = ("coop", "egg", "farm", "hen", "nest")
LETHAL = """
    import os, signal
    if os.path.exists({trap!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    from livetag import Module, handles

    class Voice(Module):
        def initial_state(self):
            return {{"asked": 0}}

        @handles
        def loaded(self) -> str:
            return "1.1.0"
"""
BROKEN = "raise RuntimeError('not today')"


def app_toml(modules: Mapping[str, tuple[str, str]]) -> str:
    """An app.toml: module → (package, mood)."""
    parts = ['[app]\nname = "yard"\n']
    parts += [
        f'[modules.{name}]\npackage = "{package}"\nconfig = {{ mood = "{mood}" }}\n'
        for name, (package, mood) in modules.items()
    ]
    return "\n".join(parts)


def all_in(version: str, mood: str = "calm") -> Served:
    return dict.fromkeys(MODULES, f"{version} {mood}")


def make_base(path: Path) -> Victim:
    """Five modules in service in version 1.0.0 under a composition, stopped cleanly; 1.1.0 serves after `upgraded`."""
    base = Victim(path)
    base.calm()
    base.start()
    base.work.write("app.toml", app_toml({name: (name, "calm") for name in MODULES}))
    tags = prepare_release(base, "1.0.0")
    base.work.tag("app/v1.0.0")
    assert base.push("main", "app/v1.0.0", *tags).returncode == 0
    assert base.serves() == all_in("1.0.0")
    base.stop()
    return base


def make_upgraded(path: Path, base: Victim) -> Victim:
    """The base after a second release, so that there is something to roll back."""
    upgraded = Victim(path, base)
    upgraded.calm()
    upgraded.start()
    tags = prepare_release(upgraded, "1.1.0")
    assert upgraded.push("main", *tags).returncode == 0
    upgraded.stop()
    return upgraded


def prepare_release(victim: Victim, version: str) -> tuple[str, ...]:
    """Commit all five modules in that version, one tag each."""
    for name in MODULES:
        victim.write(name, voice(version))
    tags = tuple(f"{name}/v{version}" for name in MODULES)
    victim.release(*tags)
    return tags


def _push_five(victim: Victim) -> subprocess.Popen[str]:
    return victim.begin_push("main", *prepare_release(victim, "1.1.0"))


def _push_composition(victim: Victim) -> subprocess.Popen[str]:
    """One module leaves, one comes, one is configured anew, together."""
    modules = {name: (name, "calm") for name in MODULES if name != "farm"}
    modules["hen"] = ("hen", "proud")
    modules["barn"] = ("coop", "calm")
    victim.work.write("app.toml", app_toml(modules))
    victim.release("app/v2.0.0")
    return victim.begin_push("main", "app/v2.0.0")


def _push_broken(victim: Victim) -> subprocess.Popen[str]:
    victim.write("hen", BROKEN)
    victim.release("hen/v1.1.0")
    return victim.begin_push("main", "hen/v1.1.0")


def _roll_back(victim: Victim) -> subprocess.Popen[str]:
    return victim.begin_command("rollback", "--reason", "by mistake")


def _stop(victim: Victim) -> subprocess.Popen[str]:
    assert victim.host is not None
    victim.host.send_signal(signal.SIGTERM)
    return victim.begin(["true"])


def _died(victim: Victim, plan: str, times: int = 1, *, wanted: bool = False) -> None:
    """Have it die at that point of a deploy of five, and at each start that goes on with it.

    Then the tags go away, unless they are `wanted`, so that the next start is the whole scenario.
    """
    assert run(victim, DEPLOY, plan) == "died"
    for _ in range(times - 1):
        victim.aim(plan)
        victim.host = victim.spawn()
        wait_until(lambda: victim.dead, "the start goes on with the deploy, and dies", 30.0)
        victim.buried()
    if not wanted:
        victim.git("tag", "-d", *DEPLOY.tags)


def _looped(victim: Victim) -> None:
    """Have a release go live that ends the host at each import from then on, and let it do so twice."""
    trap = victim.path.parent / "trap"
    victim.start()
    victim.write("hen", LETHAL.format(trap=str(trap)))
    victim.release("hen/v1.1.0")
    assert victim.push("main", "hen/v1.1.0").returncode == 0
    victim.stop()
    trap.write_text("")
    for _ in (1, 2):
        victim.host = victim.spawn()
        wait_until(lambda: victim.dead, "it dies at the import", 30.0)
        victim.buried()


NEW_COMPOSITION: Served = {
    **dict.fromkeys(("coop", "egg", "nest", "barn"), "1.0.0 calm"),
    "hen": "1.0.0 proud",
}
FIVE = tuple(f"{name}/v1.1.0" for name in MODULES)
DEPLOY = Scenario("deploy of five", _push_five, all_in("1.0.0"), all_in("1.1.0"), FIVE)
COMPOSITION = Scenario(
    "composition change", _push_composition, all_in("1.0.0"), NEW_COMPOSITION, ("app/v2.0.0",)
)
REFUSED = Scenario("refused push", _push_broken, all_in("1.0.0"), all_in("1.0.0"), ("hen/v1.1.0",))
STOP = Scenario("clean stop", _stop, all_in("1.0.0"), all_in("1.0.0"), stops=True)
ROLLBACK = Scenario(
    "rollback",
    _roll_back,
    all_in("1.1.0"),
    all_in("1.0.0"),
    tuple(f"{name}/v1.1.1" for name in MODULES),
    before=all_in("1.0.0"),  # it is asked for by the quarantine too, once that is recorded
)
START = Scenario("start after a stop", None, all_in("1.0.0"), all_in("1.0.0"))
START_UNFINISHED = Scenario(
    "recovery before the decision",
    None,
    all_in("1.0.0"),
    all_in("1.0.0"),
    ready=lambda victim: _died(victim, "switch.record:before 1 kill"),
)
START_COMMITTED = Scenario(
    "recovery after the decision",
    None,
    all_in("1.1.0"),
    all_in("1.1.0"),
    before=all_in("1.0.0"),
    ready=lambda victim: _died(
        victim, "journal.sync:after 4 kill", wanted=True
    ),  # tags, PLANNED, PREPARED, COMMITTED
)
START_QUARANTINE = Scenario(
    "recovery from the second death",
    None,
    all_in("1.0.0"),
    all_in("1.0.0"),
    ready=lambda victim: _died(victim, "switch.record:before 1 kill", times=2),
)
START_LOOPING = Scenario(
    "recovery from a crash loop",
    None,
    {**all_in("1.0.0"), "hen": "1.1.0 calm"},  # until the quarantine and the way back are recorded
    all_in("1.0.0"),
    before=all_in("1.0.0"),
    ready=_looped,
)
RECOVERIES = (START, START_LOOPING, START_UNFINISHED, START_COMMITTED, START_QUARANTINE)
SCENARIOS = (DEPLOY, COMPOSITION, ROLLBACK, REFUSED, STOP, *RECOVERIES)
