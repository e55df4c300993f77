"""A keeper is started ahead while the host is at rest, serves one release, and leaves nothing: no process, no trace in the next."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from orchestrator.control.host import SWITCH_INTERVAL_S
from orchestrator.testing.clock import FakeClock
from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.trial import describe, trial
from orchestrator.upgrade.trial_child import children_of
from orchestrator.upgrade.trial_keeper import KeeperProcess
from orchestrator.upgrade.trial_keepers import REST_S, Keepers
from orchestrator.upgrade.trial_protocol import Rehearsal
from repo_store.errors import ReleaseInvalid
from repo_store.manifest import ModuleManifest, TrialSection
from tests.stories.deployment import deployed, wait_until
from tests.stories.footprint import is_keeper

LIMITS = TrialSection(memory_mb=512, time_s=15.0)
GOOD = """
import os
from pathlib import Path
from orchestrator.runtime.module import Module

assert not list(Path.cwd().iterdir()), "somebody was here before"
(Path.cwd() / "left").touch()
with open({seen!r}, "a") as seen:
    print(os.getppid(), os.environ.get("SEEN_BY_A_RELEASE"), os.environ["TMPDIR"] == os.getcwd(), file=seen)

class Counter(Module[dict]):
    def initial_state(self):
        return {{}}
"""


class Releases:
    """Staged releases that note which keeper each of their processes came from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = folder / "seen"

    def staged(self, name: str, source: str = GOOD) -> Path:
        package = self._folder / name / "counter"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(source.format(seen=str(self._seen)))
        return package.parent

    @property
    def seen(self) -> list[tuple[int, str]]:
        """The keeper of each process so far, and what that found in the environment."""
        rows = [line.split() for line in self._seen.read_text().splitlines()]
        assert all(own == "True" for _, _, own in rows), rows
        return [(int(keeper), value) for keeper, value, _ in rows]


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


@pytest.fixture
def keepers() -> Iterator[Keepers]:
    before = set(children_of(os.getpid()))
    keepers = Keepers()
    try:
        yield keepers
    finally:
        keepers.close()
    assert set(children_of(os.getpid())) <= before


def described(folder: Path, keepers: Keepers) -> None:
    describe(folder, "counter", ModuleManifest(), LIMITS, keepers)


def tried(folder: Path, keepers: Keepers) -> None:
    rehearsal = Rehearsal("counter", "1.0.0", {})
    asyncio.run(trial(folder, "counter", ModuleManifest(), rehearsal, LIMITS, keepers=keepers))


def only_child(pid: int) -> int:
    (child,) = children_of(pid)
    return child


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# -- who serves whom -------------------------------------------------------------------------------------------------------


def test_a_release_is_described_and_tried_by_one_keeper_though_its_folder_was_renamed(
    releases: Releases, keepers: Keepers
) -> None:
    folder = releases.staged(".tmp-one")
    described(folder, keepers)
    tried(folder.rename(folder.with_name("one")), keepers)
    (first, _), (second, _) = releases.seen
    assert first == second
    assert not children_of(os.getpid())


def test_what_is_started_ahead_serves_one_release_and_another_gets_a_keeper_of_its_own(
    releases: Releases, keepers: Keepers
) -> None:
    keepers.get_ready()
    ahead = only_child(os.getpid())
    one, two = releases.staged("one"), releases.staged("two")
    described(one, keepers)
    described(two, keepers)
    tried(one, keepers)
    tried(two, keepers)
    mine = [keeper for keeper, _ in releases.seen]
    assert mine[0] == ahead
    assert mine[2] not in mine[:2], "the keeper of one release was used for another"
    assert mine[1] == mine[3]


def test_one_that_waits_for_a_trial_that_does_not_come_gives_way_to_a_fresh_one(
    releases: Releases, keepers: Keepers
) -> None:
    described(releases.staged("one"), keepers)
    used = only_child(os.getpid())
    keepers.get_ready()
    ahead = only_child(os.getpid())
    assert ahead != used
    keepers.get_ready()
    assert only_child(os.getpid()) == ahead, "a fresh one was replaced for nothing"


def test_the_keeper_of_a_release_that_cannot_be_described_is_gone(
    releases: Releases, keepers: Keepers
) -> None:
    keepers.get_ready()
    with pytest.raises(ReleaseInvalid):
        described(releases.staged("one", "raise ValueError"), keepers)
    assert not children_of(os.getpid())


# -- what has become of one that waited ------------------------------------------------------------------------------------


def test_one_that_died_while_it_waited_is_no_verdict_on_the_release(
    releases: Releases, keepers: Keepers
) -> None:
    keepers.get_ready()
    dead = only_child(os.getpid())
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: not alive(dead), "it is dead")
    tried(releases.staged("one"), keepers)
    keepers.get_ready()
    dying = only_child(os.getpid())
    os.kill(dying, signal.SIGSTOP)
    dies = threading.Timer(0.2, os.kill, (dying, signal.SIGKILL))
    dies.start()
    tried(releases.staged("two"), keepers)
    dies.join()
    assert not {dead, dying} & {keeper for keeper, _ in releases.seen}
    assert len(releases.seen) == 2


@pytest.mark.parametrize("cancelled", [False, True])
def test_one_that_stands_still_keeps_nobody_waiting_though_the_state_is_larger_than_a_pipe(
    releases: Releases, keepers: Keepers, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    monkeypatch.setattr("orchestrator.upgrade.trial_keeper.START_S", 30.0 if cancelled else 0.2)
    monkeypatch.setattr("orchestrator.upgrade.trial_keeper.END_S", 0.2)
    keepers.get_ready()
    still = only_child(os.getpid())
    os.kill(still, signal.SIGSTOP)
    folder, state = releases.staged("one"), msgspec.msgpack.encode({"text": "x" * 1_000_000})
    rehearsal, limits = Rehearsal("counter", "1.0.0", {}, state), TrialSection(memory_mb=512, time_s=0.2)

    async def story() -> None:
        work = trial(folder, "counter", ModuleManifest(), rehearsal, limits, keepers=keepers)
        trying = asyncio.ensure_future(work)
        if cancelled:
            await asyncio.sleep(0.1)
            monkeypatch.setattr("orchestrator.upgrade.trial_keeper.START_S", 0.2)
            trying.cancel()
        try:
            ended, _ = await asyncio.wait([trying], timeout=10.0)
        finally:
            with contextlib.suppress(ProcessLookupError):  # else a test that fails would wait for ever
                os.kill(still, signal.SIGKILL)
        assert ended
        with pytest.raises(asyncio.CancelledError if cancelled else TrialFailed) as failed:
            await trying
        assert cancelled or (isinstance(failed.value, TrialFailed) and failed.value.fault == "moment")

    asyncio.run(story())
    assert not children_of(os.getpid())


def test_a_release_sees_the_environment_of_now_not_of_when_its_keeper_was_started(
    releases: Releases, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    keepers.get_ready()
    monkeypatch.setenv("SEEN_BY_A_RELEASE", "now")
    described(releases.staged("one"), keepers)
    assert [value for _, value in releases.seen] == ["now"]


def test_a_module_that_changes_the_environment_meanwhile_fails_no_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop runs modules while a thread looks whether a keeper fits."""
    for number in range(300):  # it takes a while to look at them all
        monkeypatch.setenv(f"OTHER_{number}", "")
    monkeypatch.setenv("OF_A_MODULE", "")
    over, before = threading.Event(), sys.getswitchinterval()

    def change() -> None:
        while not over.is_set():
            os.environ["OF_A_MODULE"] = ""
            del os.environ["OF_A_MODULE"]

    keeper, module = KeeperProcess(), threading.Thread(target=change)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    module.start()
    try:
        assert {keeper.fits for _ in range(300)} <= {True, False}
    finally:
        over.set()
        module.join()
        sys.setswitchinterval(before)
        keeper.end()


def test_a_release_can_import_what_was_installed_after_its_keeper_was_started(
    releases: Releases, keepers: Keepers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    wanting = f"import os\nif os.path.exists({str(site / 'later.py')!r}):\n    import later\n"
    folder = releases.staged("one", wanting + GOOD)
    described(folder, keepers)
    before = site.stat()
    (site / "later.py").touch()
    os.utime(site, ns=(before.st_atime_ns, before.st_mtime_ns))  # within one tick of the file system's clock
    tried(folder, keepers)
    assert len({keeper for keeper, _ in releases.seen}) == 1


def test_where_none_can_be_started_ahead_a_release_is_tried_as_ever(
    releases: Releases, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("sys.executable", "/no-python")
        keepers.get_ready()
    assert not children_of(os.getpid())
    described(releases.staged("one"), keepers)


# -- what one that waits holds ---------------------------------------------------------------------------------------------


def test_one_that_waits_holds_nothing_of_the_host(keepers: Keepers) -> None:
    keepers.get_ready()
    ahead = Path(f"/proc/{only_child(os.getpid())}")
    wait_until(lambda: is_keeper(int(ahead.name)), "it runs")
    streams = {"0", "1", "2"}
    wait_until(lambda: {each.name for each in (ahead / "fd").iterdir()} <= streams, "nothing else is open")
    assert (ahead / "cwd").readlink() == Path("/")
    assert os.getsid(int(ahead.name)) == int(ahead.name), "a Ctrl-C at the host's terminal would end it"


HOST = """
import os, sys, time
from orchestrator.upgrade.trial_keepers import Keepers
keepers = Keepers()
keepers.get_ready()
print("ready", flush=True)
time.sleep(3600)
"""


def test_a_killed_host_leaves_none_behind() -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST], cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE
    )
    assert host.stdout is not None
    assert host.stdout.readline() == b"ready\n"
    ahead = only_child(host.pid)
    host.kill()
    host.wait()
    host.stdout.close()
    wait_until(lambda: not alive(ahead), "the keeper has ended")


def test_a_closed_one_starts_and_holds_no_more(releases: Releases) -> None:
    keepers = Keepers()
    keepers.get_ready()
    keepers.close()
    keepers.get_ready()
    assert not children_of(os.getpid())
    described(releases.staged("one"), keepers)
    assert not children_of(os.getpid())


# -- when one is started ahead ---------------------------------------------------------------------------------------------


def test_one_is_started_only_after_a_rest_and_again_after_it_was_used(
    releases: Releases, keepers: Keepers
) -> None:
    async def story() -> None:
        clock = FakeClock()
        running = asyncio.ensure_future(keepers.run(clock))

        async def rest(seconds: float) -> None:
            await asyncio.sleep(0.01)
            await clock.advance(seconds, lambda: asyncio.sleep(0.01))

        async def ready() -> int:
            while not children_of(os.getpid()):
                await asyncio.sleep(0.01)
            return only_child(os.getpid())

        await rest(REST_S * 0.9)
        assert not children_of(os.getpid())
        await rest(REST_S * 0.2)
        first = await ready()
        folder = releases.staged("one")
        await asyncio.to_thread(described, folder, keepers)
        await rest(REST_S * 0.9)
        await trial(folder, "counter", ModuleManifest(), Rehearsal("c", "1.0.0", {}), LIMITS, keepers=keepers)
        assert [keeper for keeper, _ in releases.seen] == [first, first]
        await rest(REST_S * 0.9)
        assert not children_of(os.getpid()), "a push that comes right after another was to wait for no start"
        await rest(REST_S * 0.15)
        assert await asyncio.wait_for(ready(), 5.0) != first, (
            "it rests since the last of its uses, not since some later moment"
        )
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(story())


COUNTER = """
from livetag import Module, handles

class Counter(Module[dict]):
    @handles
    def tick(self) -> int:
        return {number}
"""


def test_a_host_at_rest_has_one_and_a_host_that_has_stopped_has_none(tmp_path: Path) -> None:
    def waiting() -> list[int]:
        return [pid for pid in children_of(host) if is_keeper(pid)]

    with deployed(tmp_path) as deployment:
        assert deployment.host is not None
        host = deployment.host.pid
        wait_until(waiting, "one waits")
        first = waiting()
        deployment.deploy("counter/v1.0.0", counter=COUNTER.format(number=1))
        assert deployment.ask("counter", "tick") == 1
        wait_until(lambda: waiting() not in ([], first), "another one waits")
        second = waiting()
        assert deployment.stop() == 0
        assert not any(map(alive, (*first, *second)))
