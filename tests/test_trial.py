"""A release is tried in a process of its own: whatever it does there, the host lives and says what it was."""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.trial import TrialReport, describe, trial
from orchestrator.upgrade.trial_child import children_of
from orchestrator.upgrade.trial_protocol import Rehearsal
from repo_store.errors import ReleaseInvalid, StagingFailed
from repo_store.manifest import Limits, ModuleManifest, TrialSection

GOOD = """
from livetag_test import Module, handles
class Counter(Module[dict]):
    state_version = 2
    def initial_state(self): return {"total": 0}
    @handles
    def tick(self, by: int = 1) -> int: return by
@Counter.migrates(1, 2)
def up(old): return {"total": old["n"]}
"""
IMPORTS = "from orchestrator.runtime.module import Module, handles"
SMALL = TrialSection(memory_mb=512, time_s=15.0)
QUICK = Limits(load_s=1.5)


def staged(folder: Path, source: str, **files: str) -> Path:
    package = folder / "counter"
    package.mkdir(parents=True)
    source = dedent(source).replace("from livetag_test import Module, handles", IMPORTS)
    (package / "__init__.py").write_text(source, encoding="utf-8")
    for name, text in files.items():
        (package / f"{name}.py").write_text(dedent(text), encoding="utf-8")
    return folder


def with_method(body: str) -> str:
    method = "\n".join("    " + line for line in dedent(body).strip().splitlines())
    return f"import asyncio, os, sys, time\n{IMPORTS}\nclass Counter(Module[dict]):\n    x = 1\n{method}\n"


def rehearsal(state: object = None, state_version: int = 1) -> Rehearsal:
    data = None if state is None else msgspec.msgpack.encode(state)
    return Rehearsal("counter", "1.3.0", {"port": 179}, data, state_version)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Every test here ends with no process below this one; an orphan would be adopted by us and be seen."""
    prctl, subreaper = ctypes.CDLL(None).prctl, 36
    before = set(children_of(os.getpid()))
    prctl(subreaper, 1, 0, 0, 0)
    try:
        yield
        assert set(children_of(os.getpid())) <= before
    finally:
        prctl(subreaper, 0, 0, 0, 0)


def description_of(folder: Path, manifest: ModuleManifest | None = None) -> dict[str, object]:
    found = json.loads(describe(folder, "counter", manifest or ModuleManifest(), SMALL))
    assert isinstance(found, dict)
    return found


def try_it(folder: Path, given: Rehearsal, limits: Limits = QUICK) -> dict[str, float]:
    manifest = ModuleManifest(limits=limits)
    return asyncio.run(trial(folder, "counter", manifest, given, SMALL)).seconds


# --- what a good release gets


def test_a_good_release_is_described(tmp_path: Path) -> None:
    found = description_of(staged(tmp_path, GOOD))
    assert found["entry"] == "counter:Counter"
    assert found["state_version"] == 2
    assert found["migrations"] == [[1, 2]]
    assert set(found["handles"]) == {"tick"}  # type: ignore[call-overload]


def test_a_release_has_its_garbage_collected_as_in_the_host(tmp_path: Path) -> None:
    source = "import gc\nassert gc.isenabled(), 'off'\n" + GOOD
    assert description_of(staged(tmp_path, source))["entry"] == "counter:Counter"


def test_a_child_that_only_describes_does_not_import_what_it_has_no_use_for(tmp_path: Path) -> None:
    source = (
        "import sys\nassert not {'loguru', 'git', 'watchdog', 'rich'} & set(sys.modules), 'heavy'\n" + GOOD
    )
    assert description_of(staged(tmp_path, source))["entry"] == "counter:Counter"


def test_describing_writes_nothing_into_the_staged_folder(tmp_path: Path) -> None:
    staged(tmp_path / "stage", GOOD, core="x = 1\n")
    before = sorted(tmp_path.rglob("*"))
    description_of(tmp_path / "stage")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_good_release_passes_from_a_first_start_and_from_an_older_state(tmp_path: Path) -> None:
    staged(tmp_path, GOOD)
    first = try_it(tmp_path, rehearsal())
    assert {"import", "construct", "initial_state", "prepare", "take_over", "self_test", "stop"} <= set(first)
    later = try_it(tmp_path, rehearsal({"n": 7}, 1))
    assert "migrate" in later
    assert "initial_state" not in later


def test_the_trial_sees_configuration_state_and_calls_each_hook_once(tmp_path: Path) -> None:
    source = with_method("""
        def initial_state(self): return {"calls": []}
        calls: list = []
        async def prepare(self): self.calls.append(("prepare", self.config["port"], self.version))
        def take_over(self, resources): self.calls.append(("take_over", resources))
        async def self_test(self): self.calls.append(("self_test", self.state))
        async def stop(self): raise ValueError(self.calls)
    """)
    with pytest.raises(TrialFailed) as caught:
        try_it(staged(tmp_path, source), rehearsal())
    expected: list[object] = [("prepare", 179, "1.3.0"), ("take_over", {}), ("self_test", {"calls": []})]
    assert f"stop() raised ValueError: {expected}" in str(caught.value)
    assert caught.value.step == "stop"


def test_a_release_that_lives_on_resources_is_not_tested_without_them(tmp_path: Path) -> None:
    source = with_method("""
        def take_over(self, resources): self.sock = resources["sock"]
        async def self_test(self): self.sock.fileno()
    """)
    assert "self_test" not in try_it(staged(tmp_path, source), rehearsal({}, 1))


def test_a_shared_folder_is_imported_beside_the_package(tmp_path: Path) -> None:
    staged(tmp_path, "from wire.frames import SIZE\n" + GOOD)
    (tmp_path / "wire").mkdir()
    (tmp_path / "wire" / "__init__.py").touch()
    (tmp_path / "wire" / "frames.py").write_text("SIZE = 3\n")
    assert description_of(tmp_path, ModuleManifest(shared=("lib/wire",)))["entry"] == "counter:Counter"


def test_what_the_release_prints_is_not_taken_for_its_answer(tmp_path: Path) -> None:
    noise = """
    import os, sys
    print('{"failed": "no"}')
    sys.stderr.write("x" * 500_000)
    os.write(1, b"\\xff" * 500_000)
    """
    assert description_of(staged(tmp_path, dedent(noise) + GOOD))["state_version"] == 2


def test_a_fork_of_the_release_that_comes_back_to_us_has_no_say(tmp_path: Path) -> None:
    fork = """
    import os
    if not os.fork():
        raise ValueError("I am the copy")
    os.wait()
    """
    assert description_of(staged(tmp_path, dedent(fork) + GOOD))["state_version"] == 2


def test_the_release_sees_nothing_of_git_and_cannot_read_our_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("LIVETAG_DIR", "/nowhere")
    monkeypatch.setenv("WS_TOKEN", "kept")
    check = """
    import os, sys
    assert sys.stdin.read() == ""
    assert not [key for key in os.environ if key.startswith(("GIT_", "LIVETAG_"))]
    assert os.environ["WS_TOKEN"] == "kept"
    open("scratch", "w").close()
    """
    assert description_of(staged(tmp_path, dedent(check) + GOOD))["state_version"] == 2
    assert not Path("scratch").exists()


# --- what a bad one gets: each ends within its limits with a sentence that says what failed

SPIN = "def spin():\n    while True:\n        pass\nspin()\n"
AT_IMPORT = {
    "raises": ("x = 1\n{}['n']\n", r"KeyError: 'n' \(counter/__init__.py line 2\)"),
    "misses a distribution": ("import no_such_thing\n", r"No module named 'no_such_thing'.*line 1"),
    "has a syntax error": ("x = 1\ndef\n", r"__init__.py line 2"),
    "calls sys.exit": ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(counter/__init__.py line 2\)"),
    "is interrupted": ("raise KeyboardInterrupt\n", r"KeyboardInterrupt.*line 1"),
    "calls os._exit": (
        "import os\ndef leave():\n    os._exit(4)\nleave()\n",
        r"its import ended the process with status 4 \(counter/__init__.py line 3 in leave\)",
    ),
    "exits well": ("import os\nos._exit(0)\n", r"status 0 \(counter/__init__.py line 2 in"),
    "segfaults": (
        "import ctypes\n\nctypes.string_at(8)\n",
        r"its import crashed with SIGSEGV \(counter/__init__.py line 3 in",
    ),
    "aborts": ("import os\nprint('last words', flush=True)\nos.abort()\n", r"SIGABRT.*line 3.*'last words'"),
    "takes 20 GB": ("x = bytearray(20 << 30)\n", r"MemoryError.*line 1.*limit of a trial is 512 MB"),
    "fills the memory": (
        "x = []\nwhile True:\n    x.append(bytes(1 << 20))\n",
        r"MemoryError.*line 3.*limit of a trial is 512 MB",
    ),
    "spins": (
        SPIN,
        r"its import did not end within limits.load_s = 1.5 s \(counter/__init__.py line [23] in spin\)",
    ),
    "sleeps": (
        "import time\ntime.sleep(3600)\n",
        r"did not end within limits.load_s = 1.5 s \(counter/__init__.py line 2 in",
    ),
    "refuses to stop": (
        "import time\nwhile True:\n    try:\n        time.sleep(3600)\n    except BaseException:\n        pass\n",
        r"did not end within limits.load_s = 1.5 s",
    ),
    "blocks signals": (
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\ntime.sleep(3600)\n",
        r"did not end within limits.load_s = 1.5 s",
    ),
    "bombs with threads": (
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(3600,)).start()\n",
        r"can't start new thread.*line 3|did not end within",
    ),
    "leaves a thread and raises": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\nraise OSError('x')\n",
        r"OSError: x .*line 3",
    ),
    "recurses": ("def f():\n    f()\nf()\n", r"RecursionError.*line 2"),
    "forks and hangs": (
        "import os, time\nif not os.fork():\n    os.setsid()\ntime.sleep(3600)\n",
        r"did not end",
    ),
    "forks off a daemon and raises": (
        """
        import os, time
        if not os.fork():
            os.setsid()
            if not os.fork():
                time.sleep(3600)
            os._exit(0)
        os.wait()
        raise ValueError("the daemon lives")
        """,
        r"ValueError: the daemon lives \(counter/__init__.py line 9\)",
    ),
    "bombs with processes": (
        "import os, time\nfor _ in range(5):\n    os.fork()\ntime.sleep(3600)\n",
        r"did not end within limits.load_s = 1.5 s",
    ),
    "kills all it can": ("import os\nos.killpg(0, 9)\n", r"its process was killed during its import"),
    "closes every file": ("import os\nos.closerange(3, 1000)\nos.close(2)\n" + GOOD, r"ended the process"),
    "has no module": ("x = 1\n", r"exactly one Module class, found: none"),
}


@pytest.mark.parametrize("kind", AT_IMPORT)
def test_an_import_that_goes_wrong_ends_in_a_sentence(tmp_path: Path, kind: str) -> None:
    source, sentence = AT_IMPORT[kind]
    began = time.monotonic()
    with pytest.raises((ReleaseInvalid, StagingFailed), match=sentence) as caught:
        describe(staged(tmp_path, source), "counter", ModuleManifest(limits=QUICK), SMALL)
    assert time.monotonic() - began < 15
    ours = isinstance(caught.value, StagingFailed)
    assert ours == (kind == "kills all it can")
    text = str(caught.value)
    assert ("says nothing about the release" if ours else "failed its trial") in text
    assert "__trial_" not in text  # names as the author wrote them


IN_LIFE = {
    "prepare raises": (
        "async def prepare(self): raise OSError('no route')",
        "prepare",
        r"prepare\(\) raised OSError: no route \(counter/__init__.py line 5\)",
    ),
    "prepare never returns": (
        "async def prepare(self):\n    await asyncio.Event().wait()",
        "prepare",
        r"prepare\(\) did not end within limits.load_s = 1.5 s, .*\(counter/__init__.py line 6\)",
    ),
    "prepare swallows cancels": (
        "async def prepare(self):\n    while True:\n        try: await asyncio.sleep(9)\n        except BaseException: 0",
        "prepare",
        r"prepare\(\) did not end within limits.load_s = 1.5 s, .*line 7",
    ),
    "prepare blocks": (
        "async def prepare(self):\n    time.sleep(3600)",
        "prepare",
        r"prepare\(\) did not end within limits.load_s = 1.5 s \(counter/__init__.py line 6 in prepare\)",
    ),
    "prepare exits": (
        "async def prepare(self): sys.exit('bye')",
        "prepare",
        r"prepare\(\) raised SystemExit: bye \(counter/__init__.py line 5\)",
    ),
    "prepare is not async": ("def prepare(self): pass", "prepare", r"prepare\(\) must be `async def`"),
    "prepare uses state": (
        "async def prepare(self): self.state['x'] = 1",
        "prepare",
        r"has no state before it serves",
    ),
    "take_over raises": (
        "def take_over(self, resources): resources['sock']",
        "take_over",
        r"take_over\(\) raised KeyError: 'sock'",
    ),
    "self_test raises": (
        "async def self_test(self): assert self.state == 1, 'unfit'",
        "self_test",
        r"self_test\(\) raised AssertionError: unfit",
    ),
    "self_test never returns": (
        "async def self_test(self):\n    while True: await asyncio.sleep(0.1)",
        "self_test",
        r"self_test\(\) did not end within the host.s trial.time_s = 2 s, .*line 6",
    ),
    "stop spins": (
        "async def stop(self):\n    while True: pass",
        "stop",
        r"stop\(\) did not end within the host.s trial.time_s = 2 s \(counter/__init__.py line 6 in stop\)",
    ),
    "state is no plain data": (
        "def initial_state(self): return {'x': object()}",
        "initial_state",
        r"initial_state\(\): The state",
    ),
    "initial_state raises": (
        "def initial_state(self): return 1 / 0",
        "initial_state",
        r"initial_state\(\) raised ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("kind", IN_LIFE)
def test_a_life_that_goes_wrong_names_its_step_and_line(tmp_path: Path, kind: str) -> None:
    body, step, sentence = IN_LIFE[kind]
    folder = staged(tmp_path, with_method(body))
    limits = TrialSection(memory_mb=512, time_s=2.0)
    with pytest.raises(TrialFailed, match=sentence) as caught:
        asyncio.run(trial(folder, "counter", ModuleManifest(limits=QUICK), rehearsal(), limits))
    assert (caught.value.step, caught.value.fault) == (step, "release")
    assert str(caught.value).startswith("counter 1.3.0 failed its trial: ")


def test_a_missing_or_failing_migration_is_found_on_a_copy(tmp_path: Path) -> None:
    staged(tmp_path, GOOD)
    with pytest.raises(TrialFailed, match="No migration leads from state version 5 to 2") as caught:
        try_it(tmp_path, rehearsal({"n": 1}, 5))
    assert caught.value.step == "migrate"
    with pytest.raises(TrialFailed, match=r"migration of a copy of the state raised KeyError: 'n' .*line 9"):
        try_it(tmp_path, rehearsal({"other": 1}, 1))


def test_a_cancelled_trial_ends_its_process(tmp_path: Path) -> None:
    staged(tmp_path, "import time\nopen('/proc/self/comm', 'w').write('trial-sleeps')\ntime.sleep(3600)\n")

    async def story() -> None:
        task = asyncio.ensure_future(
            trial(
                tmp_path,
                "counter",
                ModuleManifest(limits=Limits(load_s=60.0)),
                rehearsal(),
                TrialSection(time_s=60.0),
            )
        )
        deadline = time.monotonic() + 20
        while "trial-sleeps" not in names_below(os.getpid()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(story())
    assert time.monotonic() - began < 30


def names_below(pid: int) -> set[str]:
    names = set()
    for child in children_of(pid):
        try:
            names.add(Path(f"/proc/{child}/comm").read_text().strip())
        except OSError:
            continue
        names |= names_below(child)
    return names


def test_a_process_that_cannot_start_is_no_verdict_on_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged(tmp_path, GOOD)
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    with pytest.raises(StagingFailed, match=r"could not be started: .*says nothing about the release"):
        description_of(tmp_path)
    with pytest.raises(TrialFailed) as caught:
        try_it(tmp_path, rehearsal())
    assert caught.value.fault == "moment"


def test_a_release_whose_files_are_gone_is_not_to_blame(tmp_path: Path) -> None:
    """Between its description and its trial somebody may clear the stage: the next look stages it anew."""
    folder = staged(tmp_path / "stage", GOOD)
    assert description_of(folder)
    shutil.rmtree(folder)
    with pytest.raises(
        TrialFailed, match=r"is no longer there\. This says nothing about the release"
    ) as caught:
        try_it(folder, rehearsal())
    assert caught.value.fault == "moment"


HOST = """
import sys
from pathlib import Path
from orchestrator.upgrade.trial import describe
from repo_store.manifest import Limits, ModuleManifest, TrialSection
describe(Path(sys.argv[1]), "counter", ModuleManifest(limits=Limits(load_s=60.0)), TrialSection(time_s=60.0))
"""


def test_a_killed_host_leaves_no_trial_behind(tmp_path: Path) -> None:
    sleeper = "import time\nopen('/proc/self/comm', 'w').write('trial-sleeps')\ntime.sleep(3600)\n"
    folder = staged(tmp_path, sleeper)
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(folder)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # a killed host cannot remove its scratch folder
    )
    deadline = time.monotonic() + 20
    while "trial-sleeps" not in names_below(host.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    host.kill()
    host.wait()
    while children_of(os.getpid()):  # the keeper is an orphan now, and we adopted it
        assert time.monotonic() < deadline, names_below(os.getpid())
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.02)


# --- what the way back would lose


BY_KEY = f"""
from typing import TypedDict
{IMPORTS}
class State(TypedDict):
    total: int
    by_key: dict[str, int]
class Counter(Module[State]):
    state_version = 3
    def initial_state(self) -> State: return {{"total": 0, "by_key": {{}}}}
@Counter.migrates(1, 2)
def first(old): return {{"sum": old["n"]}}
@Counter.migrates(2, 3)
def second(old): return {{"total": old["sum"], "by_key": {{}}}}
@Counter.migrates(2, 1)
def back_first(new): return {{"n": new["sum"]}}
@Counter.migrates(3, 2)
def back_second(new): return {{"sum": new["total"]}}
"""


def report_of(folder: Path, given: Rehearsal) -> TrialReport:
    return asyncio.run(trial(folder, "counter", ModuleManifest(limits=QUICK), given, SMALL))


def test_a_trial_says_what_the_way_back_would_lose_and_how_long_the_migration_took(tmp_path: Path) -> None:
    staged(tmp_path, BY_KEY)
    report = report_of(tmp_path, rehearsal({"n": 7}, 1))
    assert report.lost == ("by_key",), "it is empty after the way up, and lost all the same when it is not"
    assert report.migration_s is not None
    assert 0 < report.migration_s < report.seconds["migrate"]


def test_a_trial_that_migrates_nothing_measures_nothing(tmp_path: Path) -> None:
    staged(tmp_path, BY_KEY)
    same = report_of(tmp_path, rehearsal({"total": 7, "by_key": {}}, 3))
    assert (same.migration_s, same.lost, same.first_state) == (None, None, None)
    first = report_of(tmp_path, rehearsal())
    assert (first.migration_s, first.lost) == (None, None)
    assert msgspec.msgpack.decode(first.first_state or b"") == {"total": 0, "by_key": {}}


def test_a_large_state_goes_the_way_back_once_and_a_small_one_tries_the_fields(tmp_path: Path) -> None:
    once = """
large = []
def down(new):
    if len(new["text"]) > 1000: large.append(1)
    assert len(large) < 2, "a large state is walked once"
    return {"text": new["text"]}
Counter.migrates(2, 1)(down)
"""
    source = (
        BY_KEY.partition("class State")[0]
        + """
class State(TypedDict):
    text: str
    note: str
class Counter(Module[State]):
    state_version = 2
    def initial_state(self) -> State: return {"text": "", "note": ""}
@Counter.migrates(1, 2)
def up(old): return {"text": old["text"], "note": ""}
"""
    )
    staged(tmp_path, source + once)
    report = report_of(tmp_path, rehearsal({"text": "x" * 300_000}, 1))
    assert (report.lost, report.went_down) == (("note",), None), "it comes back as what it was"


def test_what_the_way_back_leaves_is_told_of_the_real_state_only(tmp_path: Path) -> None:
    """A step may well not take what the release would start with: nothing that serves ever was that."""
    counted = """
@Counter.migrates(2, 1)
def down(new): return {"n": str(max(new["counts"])), "zeros": [0] * max(new["counts"])}
"""
    source = (
        BY_KEY.partition("class State")[0]
        + """
class State(TypedDict):
    counts: list[int]
class Counter(Module[State]):
    state_version = 2
    def initial_state(self) -> State: return {"counts": []}
@Counter.migrates(1, 2)
def up(old): return {"counts": [int(old["n"])] * 50_000}
"""
    )
    staged(tmp_path, source + counted)
    report = report_of(tmp_path, rehearsal({"n": 7}, 1))
    assert msgspec.msgpack.decode(report.went_down or b"") == {"n": "7", "zeros": [0] * 7}
    large = report_of(tmp_path, rehearsal({"n": 2, "text": "x" * 300_000}, 1))
    assert msgspec.msgpack.decode(large.went_down or b"") == {"n": "2", "zeros": [0, 0]}
    grown = report_of(tmp_path, rehearsal({"n": 70_000}, 1))
    assert grown.went_down is None, "the host would look at it for too long"


def test_a_way_back_that_raises_is_a_failure_unless_the_release_has_none(tmp_path: Path) -> None:
    staged(tmp_path, BY_KEY.replace('"n": new["sum"]', '"n": new["summ"]'))
    said = r"failed its trial: the way back, tried on a copy of the state, raised KeyError: 'summ' \(counter/"
    with pytest.raises(TrialFailed, match=said):
        report_of(tmp_path, rehearsal({"n": 7}, 1))
    one_way = msgspec.structs.replace(rehearsal({"n": 7}, 1), way_back=False)
    assert report_of(tmp_path, one_way).lost is None
