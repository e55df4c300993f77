"""The scenarios of the crash matrix: what changes a deployment on disk, and what may serve afterwards."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.crash.victim import TRAP, Scenario, Served, Victim, kinds, run, voice
from tests.stories.deployment import wait_until

MODULES = ("coop", "egg", "farm", "hen", "nest")
LETHAL = """
    import os, signal
    if os.path.exists({trap!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    from livetag import Module, handles

    class Voice(Module):
        def initial_state(self):
            return {{"asked": 0, "notes": []}}

        @handles
        def loaded(self) -> str:
            return "1.1.0"

        @handles
        def told(self) -> dict:
            return self.state

        @handles
        def note(self, number: int) -> None:
            self.state["notes"].append(number)

        @handles
        async def brood(self, seconds: float) -> None:
            pass

        @handles
        def drop(self) -> None:
            pass
"""
BROKEN = "raise RuntimeError('not today')"
UNWILLING = (
    voice("1.1.0")
    + """
            async def prepare(self):
                import sys
                if "orchestrator.control.host" in sys.modules:  # it passes its trial, and votes no in the host
                    raise RuntimeError("not today")
"""
)


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
    """Five modules in service in version 1.0.0 under a composition, which have lasted through a start; stopped cleanly.

    A row of kills from outside accuses nobody that has lasted, and a scenario may be three of them.
    What the stop has saved: five states, three messages that waited for hen, in order, and one dead letter.
    """
    base = Victim(path)
    base.calm()
    base.start()
    base.work.write("app.toml", app_toml({name: (name, "calm") for name in MODULES}))
    tags = prepare_release(base, "1.0.0")
    base.work.tag("app/v1.0.0")
    assert base.push("main", "app/v1.0.0", *tags).returncode == 0
    assert base.serves() == all_in("1.0.0")
    assert base.stop() == 0
    base.start()
    wait_until(lambda: "Settled" in kinds(base)[kinds(base).index("HostStopped") :], "this start lasts")
    stop_with_notes(base)
    return base


def stop_with_notes(victim: Victim) -> None:
    """Stop it while messages wait for hen; the next start is to give them back."""
    victim.send("hen", "drop")
    wait_until(lambda: victim.status()["dead_letters"] == 1, "a dead letter")
    victim.send("hen", "brood", seconds=0.3)
    for number in (1, 2, 3):
        victim.send("hen", "note", number=number)
    assert victim.stop() == 0


def _upgraded(victim: Victim) -> None:
    """A second release, so that there is something to roll back."""
    victim.start()
    tags = prepare_release(victim, "1.1.0")
    assert victim.push("main", *tags).returncode == 0
    victim.stop()


def prepare_release(victim: Victim, version: str, modules: tuple[str, ...] = MODULES) -> tuple[str, ...]:
    """Commit the modules in that version, one tag each."""
    for name in modules:
        victim.write(name, voice(version))
    tags = tuple(f"{name}/v{version}" for name in modules)
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


def _push_unwilling(victim: Victim) -> subprocess.Popen[str]:
    victim.write("hen", UNWILLING)
    victim.release("hen/v1.1.0")
    return victim.begin_push("main", "hen/v1.1.0")


def _roll_back(victim: Victim) -> subprocess.Popen[str]:
    return victim.begin_command("rollback", "--reason", "by mistake")


PROBATION = "[probation]\nseconds = {seconds}\nmin_messages = 5\n"
BEATING = """
            @every(seconds=0.01)
            def beat(self) -> None:
                import os
                if os.path.exists(os.environ["LIVETAG_DIR"] + "/trap"):
                    raise ValueError("trapped")
"""
UNTWICE = """
            async def prepare(self):
                import os, sys
                if "orchestrator.control.host" in sys.modules and os.path.exists(os.environ["LIVETAG_DIR"] + "/trap"):
                    raise RuntimeError("not twice")
"""


def _prepare_probation(
    victim: Victim, version: str, seconds: float, modules: tuple[str, ...] = MODULES, more: str = BEATING
) -> tuple[str, ...]:
    """Commit the modules in that version, each with a probation."""
    for name in modules:
        code = voice(version).replace("import Module, handles", "import Module, every, handles")
        victim.write(
            name,
            {"__init__.py": code.rstrip() + "\n" + more, "module.toml": PROBATION.format(seconds=seconds)},
        )
    tags = tuple(f"{name}/v{version}" for name in modules)
    victim.release(*tags)
    return tags


def _in_probation(victim: Victim) -> None:
    """Five modules in a probation that does not end by itself."""
    victim.start()
    assert victim.push("main", *_prepare_probation(victim, "1.1.0", 3600.0)).returncode == 0
    victim.stop()


def _reverting(victim: Victim) -> None:
    _in_probation(victim)
    _died(victim, REVERT, "probation.breached:after 1 kill")


def _spring(victim: Victim, said: str) -> subprocess.Popen[str]:
    """Have what beats fail, and wait until the host has said it, or has died."""
    assert victim.host is not None
    stat = f"/proc/{victim.host.pid}/stat"
    lives = f"[ -e {stat} ] && ! grep -q ') Z' {stat}"
    script = (
        f"touch {victim.path}/{TRAP}; while {lives} && ! grep -q '{said}' {victim.log}; do sleep 0.02; done"
    )
    return victim.begin(["sh", "-c", script])


def _spring_and_go_back(victim: Victim) -> subprocess.Popen[str]:
    return _spring(victim, "reverted: back")


def _spring_in_vain(victim: Victim) -> subprocess.Popen[str]:
    return _spring(victim, "degraded: it was to go back")


def _push_and_pass(victim: Victim) -> subprocess.Popen[str]:
    tags = _prepare_probation(victim, "1.1.0", 0.3)
    return victim.begin_push("-o", "wait=confirmed", "main", *tags)


def _push_unmeasured(victim: Victim) -> subprocess.Popen[str]:
    tags = _prepare_probation(victim, "1.1.0", 0.3, more="")
    return victim.begin_push("-o", "wait=confirmed", "main", *tags)


def _no_way_back(victim: Victim) -> None:
    """What was confirmed last does not come back."""
    victim.start()
    tags = _prepare_probation(victim, "1.0.1", 0.0, more=UNTWICE)
    assert victim.push("main", *tags).returncode == 0
    assert victim.push("main", *_prepare_probation(victim, "1.1.0", 3600.0)).returncode == 0
    victim.stop()


def _stop(victim: Victim) -> subprocess.Popen[str]:
    assert victim.host is not None
    victim.host.send_signal(signal.SIGTERM)
    return victim.begin(["true"])


def _died(victim: Victim, scenario: Scenario, plan: str, times: int = 1, *, wanted: bool = False) -> None:
    """Have it die at that point of the scenario, and at each start that goes on with it.

    Then the tags go away, unless they are `wanted`, so that the next start is the whole scenario.
    """
    assert run(victim, scenario, plan) == "died"
    for _ in range(times - 1):
        victim.aim(plan)
        victim.host = victim.spawn()
        wait_until(lambda: victim.dead, "the start goes on with the deploy, and dies", 30.0)
        victim.buried()
    if scenario.tags and not wanted:
        victim.git("tag", "-d", *scenario.tags)


def _rolling_back(victim: Victim) -> None:
    _upgraded(victim)
    _died(victim, ROLLBACK, "refs.rollback:after 1 kill", wanted=True)


def _looped(victim: Victim) -> None:
    """Have a release go live that ends the host at each import from then on, and let it do so twice."""
    trap = victim.path.parent / "trap"
    victim.start()
    victim.write("hen", LETHAL.format(trap=str(trap)))
    victim.release("hen/v1.1.0")
    assert victim.push("main", "hen/v1.1.0").returncode == 0
    stop_with_notes(victim)
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
REFUSED = Scenario(
    "refused push", _push_broken, all_in("1.0.0"), all_in("1.0.0"), ("hen/v1.1.0",), quarantines=True
)
UNWILLED = Scenario(
    "vote of no", _push_unwilling, all_in("1.0.0"), all_in("1.0.0"), ("hen/v1.1.0",), quarantines=True
)
STOP = Scenario("clean stop", _stop, all_in("1.0.0"), all_in("1.0.0"), stops=True)
ROLLBACK = Scenario(
    "rollback",
    _roll_back,
    all_in("1.1.0"),
    all_in("1.0.0"),
    tuple(f"{name}/v1.1.1" for name in MODULES),
    before=all_in("1.0.0"),  # it is asked for by the quarantine too, once that is recorded
    ready=_upgraded,
)
REVERT = Scenario(
    "revert of five in probation",
    _spring_and_go_back,
    all_in("1.1.0"),
    all_in("1.0.0"),
    before=all_in("1.0.0"),  # once the breach is on disk, or after a second death
    ready=_in_probation,
    quarantines=True,
    in_probation=True,
)
PASSED = Scenario(
    "probation that passes",
    _push_and_pass,
    all_in("1.0.0"),
    all_in("1.1.0"),
    FIVE,
    before=all_in("1.0.0"),
    in_probation=True,
)
UNMEASURED = Scenario(
    "inconclusive probation",
    _push_unmeasured,
    all_in("1.0.0"),
    all_in("1.1.0"),
    FIVE,
    before=all_in("1.0.0"),
    in_probation=True,
)
DEGRADED = Scenario(
    "breach without a way back",
    _spring_in_vain,
    all_in("1.1.0"),
    all_in("1.1.0"),
    before=all_in("1.0.1"),
    ready=_no_way_back,
    in_probation=True,
)
START_REVERTING = Scenario(
    "recovery into a revert",
    None,
    all_in("1.1.0"),
    all_in("1.0.0"),
    before=all_in("1.0.0"),
    ready=_reverting,
    quarantines=True,
    in_probation=True,
)
START = Scenario("start after a stop", None, all_in("1.0.0"), all_in("1.0.0"))
START_HALF_STOPPED = Scenario(
    "recovery from half a stop",
    None,
    all_in("1.0.0"),
    all_in("1.0.0"),
    ready=lambda victim: _died(victim, STOP, "stop.stopped:before 1 kill"),
)
START_UNFINISHED = Scenario(
    "recovery before the decision",
    None,
    all_in("1.0.0"),
    all_in("1.0.0"),
    ready=lambda victim: _died(victim, DEPLOY, "switch.record:before 1 kill"),
)
START_COMMITTED = Scenario(
    "recovery after the decision",
    None,
    all_in("1.1.0"),
    all_in("1.1.0"),
    before=all_in("1.0.0"),
    # of the tags, PLANNED, PREPARED, COMMITTED
    ready=lambda victim: _died(victim, DEPLOY, "journal.sync:after 4 kill", wanted=True),
)
START_COMPOSED = Scenario(
    "recovery after a composition change",
    None,
    NEW_COMPOSITION,
    NEW_COMPOSITION,
    ready=lambda victim: _died(victim, COMPOSITION, "refs.deployments:before 1 kill", wanted=True),
)
START_ROLLING_BACK = Scenario(
    "recovery into a rollback",  # its tags are written, and in the journal is only that it was asked for
    None,
    all_in("1.1.0"),
    all_in("1.0.0"),
    tuple(f"{name}/v1.1.1" for name in MODULES),
    before=all_in("1.0.0"),  # as in the rollback: the start records the quarantine
    ready=_rolling_back,
)
START_QUARANTINE = Scenario(
    "recovery from the second death",
    None,
    all_in("1.0.0"),
    all_in("1.0.0"),
    ready=lambda victim: _died(victim, DEPLOY, "switch.record:before 1 kill", times=2),
    quarantines=True,
)
START_LOOPING = Scenario(
    "recovery from a crash loop",
    None,
    {**all_in("1.0.0"), "hen": "1.1.0 calm"},  # until the quarantine and the way back are recorded
    all_in("1.0.0"),
    before=all_in("1.0.0"),
    ready=_looped,
)
RECOVERIES = (
    START,
    START_HALF_STOPPED,
    START_UNFINISHED,
    START_COMMITTED,
    START_COMPOSED,
    START_ROLLING_BACK,
    START_QUARANTINE,
    START_LOOPING,
    START_REVERTING,
)
PROBATIONS = (REVERT, PASSED, UNMEASURED, DEGRADED)
SCENARIOS = (DEPLOY, COMPOSITION, ROLLBACK, REFUSED, UNWILLED, STOP, *PROBATIONS, *RECOVERIES)
