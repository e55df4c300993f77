from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_store import source_child, sources
from repo_store.errors import ReleaseInvalid, StagingFailed
from repo_store.manifest import ModuleManifest
from repo_store.release import Release
from repo_store.staging import DESCRIPTION, MADE_BY, Stage, identity_on_disk
from repo_store.store import RepoStore
from tests.git_fixtures import GitRepo, bare_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RepoStore]:
    with bare_store(tmp_path / "store.git") as store:
        yield store


@pytest.fixture
def work(tmp_path: Path, store: RepoStore) -> GitRepo:
    return GitRepo(tmp_path / "work", remote=store.path)


class Describer:
    """Stands for the child process that describes; remembers what it was asked, and may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.error = error

    def __call__(self, path: Path, package: str, manifest: ModuleManifest) -> bytes:
        compiled = any((path / package).rglob("*.pyc"))
        self.asked.append((package, compiled))
        if self.error is not None:
            raise self.error
        return b'{"durable": %s}' % str(manifest.durable).lower().encode()


def release_of(store: RepoStore, tag: str) -> Release:
    refs = store.refs()
    return store.release(refs[tag], refs)


def test_a_release_is_staged_under_its_tree_id_compiled_and_described(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.write("modules/counter/sub/__init__.py", "X = 1\n")
    work.write("modules/counter/data.bin", bytes(range(256)))
    for name in (
        "sub.txt",
        "sub-x.txt",
        "sub0.txt",
    ):  # Git sorts the folder sub among them as if it were sub/
        work.write(f"modules/counter/{name}", name)
    work.write("modules/counter/run.sh", "#!/bin/sh\n").chmod(0o755)
    work.release("counter/v1.0.0", toml="durable = true")
    describer = Describer()
    release = release_of(store, "counter/v1.0.0")
    staged = Stage(tmp_path / "stage", store, describer).stage(release)
    assert staged.path == tmp_path / "stage" / work.git("rev-parse", "HEAD:modules/counter")
    assert (staged.release, staged.description, staged.tops) == (release, b'{"durable": true}', ("counter",))
    assert staged.manifest.durable
    assert describer.asked == [("counter", True)]
    assert (staged.path / "counter/data.bin").read_bytes() == bytes(range(256))
    assert os.access(staged.path / "counter/run.sh", os.X_OK)
    assert not os.access(staged.path / "counter/data.bin", os.X_OK)
    assert (staged.path / DESCRIPTION).read_bytes() == staged.description
    compiled = importlib.util.cache_from_source(str(staged.path / "counter/sub/__init__.py"))
    assert Path(compiled).read_bytes()[4:8] == (0b01).to_bytes(4, "little"), "import trusts it without a look"
    assert str(staged.path / "counter/sub").encode() in Path(compiled).read_bytes(), (
        "tracebacks name the final place"
    )
    assert identity_on_disk(staged.path, staged.tops, release.tree_id) == release.tree_id


def test_a_staged_folder_can_be_imported_beside_its_shared_folders(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.write("lib/wire/__init__.py", "SIZE = 7\n")
    work.release("counter/v1.0.0", code="import wire\nSIZE = wire.SIZE\n", toml='shared = ["lib/wire"]')
    staged = Stage(tmp_path / "stage", store, Describer()).stage(release_of(store, "counter/v1.0.0"))
    assert staged.tops == ("counter", "wire")
    program = "import sys; sys.path.insert(0, sys.argv[1]); import counter; print(counter.SIZE)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, staged.path],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "7\n"


def test_what_is_staged_is_given_again_without_git_and_without_describing(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.release("counter/v1.0.0")
    release = release_of(store, "counter/v1.0.0")
    first = Stage(tmp_path / "stage", store, Describer()).stage(release)
    never = Describer(AssertionError("described twice"))
    with RepoStore.create(tmp_path / "empty.git") as empty:
        again = Stage(tmp_path / "stage", empty, never)
        assert again.stage(release) == first
        assert again.stage(release) == first


def test_the_same_tree_by_another_tag_is_the_same_folder(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.release("counter/v1.0.0")
    work.release("counter/v1.1.0")
    stage = Stage(tmp_path / "stage", store, Describer())
    one, two = (stage.stage(release_of(store, tag)) for tag in ("counter/v1.0.0", "counter/v1.1.0"))
    assert one.path == two.path
    assert two.release.tag == "counter/v1.1.0"


def test_two_packages_of_one_content_do_not_get_in_each_others_way(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.release("counter/v1.0.0")
    work.release("second/v1.0.0")
    stage = Stage(tmp_path / "stage", store, Describer())
    counter, second = (stage.stage(release_of(store, f"{name}/v1.0.0")) for name in ("counter", "second"))
    assert counter.release.tree_id == second.release.tree_id
    assert (counter.path / "counter").is_dir()
    assert (second.path / "second").is_dir()
    assert stage.stage(second.release) == second
    assert stage.stage(counter.release) == counter
    assert stage.sweep({counter.release.tree_id}) == []
    assert len(stage.sweep(set())) == 2


def test_export_ignore_drops_nothing(store: RepoStore, work: GitRepo, tmp_path: Path) -> None:
    work.write(".gitattributes", "*.txt export-ignore\n*.txt eol=crlf\n")
    work.write("modules/counter/.gitattributes", "* export-ignore\n")
    work.write("modules/counter/a.txt", "line\n")
    work.release("counter/v1.0.0")
    staged = Stage(tmp_path / "stage", store, Describer()).stage(release_of(store, "counter/v1.0.0"))
    assert (staged.path / "counter/a.txt").read_bytes() == b"line\n"


@pytest.mark.parametrize("harm", ["edit", "add", "remove", "link", "mode", "description", "interpreter"])
def test_a_staged_folder_that_somebody_changed_is_made_anew_at_the_next_start(
    store: RepoStore, work: GitRepo, tmp_path: Path, harm: str
) -> None:
    work.release("counter/v1.0.0")
    release = release_of(store, "counter/v1.0.0")
    staged = Stage(tmp_path / "stage", store, Describer()).stage(release)
    init = staged.path / "counter/__init__.py"
    good = init.read_bytes()
    if harm == "edit":
        init.write_bytes(good + b"# hand edit\n")
    elif harm == "add":
        (staged.path / "counter/extra.py").write_text("")
    elif harm == "remove":
        init.unlink()
    elif harm == "link":
        init.unlink()
        init.symlink_to("/dev/null")
    elif harm == "mode":
        init.chmod(0o755)
    elif harm == "interpreter":
        (staged.path / MADE_BY).write_text("stage 1, cpython-27\n")
    else:
        (staged.path / DESCRIPTION).unlink()
    again = Stage(tmp_path / "stage", store, Describer()).stage(release)
    assert again == staged
    assert init.read_bytes() == good
    assert [path.name for path in (tmp_path / "stage").iterdir()] == [release.tree_id]


@pytest.mark.parametrize("error", [ReleaseInvalid("no Module class"), KeyError("odd"), KeyboardInterrupt()])
def test_a_failing_description_passes_through_and_leaves_nothing(
    store: RepoStore, work: GitRepo, tmp_path: Path, error: Exception
) -> None:
    work.release("counter/v1.0.0")
    with pytest.raises(type(error)):
        Stage(tmp_path / "stage", store, Describer(error)).stage(release_of(store, "counter/v1.0.0"))
    assert list((tmp_path / "stage").iterdir()) == []


def test_a_release_tagged_past_the_hooks_meets_the_same_check(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.release("counter/v1.0.0", code="def f(:\n")
    describer = Describer()
    with pytest.raises(ReleaseInvalid, match=r"modules/counter/__init__\.py, line 1"):
        Stage(tmp_path / "stage", store, describer).stage(release_of(store, "counter/v1.0.0"))
    assert describer.asked == []


def test_a_stage_that_cannot_be_written_is_a_failure_of_the_moment(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.release("counter/v1.0.0")
    (tmp_path / "stage").write_text("a file in the way")
    with pytest.raises(StagingFailed, match=r"counter/v1\.0\.0 could not be staged.*tried again"):
        Stage(tmp_path / "stage", store, Describer()).stage(release_of(store, "counter/v1.0.0"))


def test_a_release_whose_identity_is_not_what_the_files_hash_to_is_never_staged(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    commit_id = work.release("counter/v1.0.0")
    forged = Release("counter", "1.0.0", "counter/v1.0.0", commit_id, "5" * 40, commit_id)
    with pytest.raises(StagingFailed, match="hash to"):
        Stage(tmp_path / "stage", store, Describer()).stage(forged)
    assert list((tmp_path / "stage").iterdir()) == []


def test_a_sweep_keeps_what_is_named_and_removes_the_rest_and_every_leftover(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "stage", store, Describer())
    assert stage.sweep(set()) == []
    work.release("counter/v1.0.0")
    work.release("counter/v1.1.0", code="X = 2\n")
    kept, gone = (stage.stage(release_of(store, f"counter/v1.{n}.0")) for n in (0, 1))
    (tmp_path / "stage" / ".tmp-left" / "counter").mkdir(parents=True)
    (tmp_path / "stage" / ".tmp-file").write_text("x")
    assert stage.sweep({kept.release.tree_id}) == [gone.release.tree_id]
    assert [path.name for path in (tmp_path / "stage").iterdir()] == [kept.release.tree_id]
    assert stage.stage(gone.release).path.is_dir(), "and it can come back"


def test_a_sweep_leaves_the_folder_that_is_being_filled_alone(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.release("counter/v1.0.0")
    swept: list[list[str]] = []

    def sweep_meanwhile(_path: Path, _package: str, _manifest: ModuleManifest) -> bytes:
        swept.append(stage.sweep(set()))
        return b"{}"

    stage = Stage(tmp_path / "stage", store, sweep_meanwhile)
    assert (stage.stage(release_of(store, "counter/v1.0.0")).path / "counter/__init__.py").is_file()
    assert swept == [[]]


def test_a_killed_staging_leaves_only_a_leftover_that_the_next_sweep_removes(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.release("counter/v1.0.0")
    program = f"""
import os, signal
from pathlib import Path
from repo_store.staging import Stage
from repo_store.store import RepoStore
store = RepoStore.open(Path({str(store.path)!r}))
refs = store.refs()
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Stage(Path({str(tmp_path / "stage")!r}), store, die).stage(store.release(refs["counter/v1.0.0"], refs))
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60, cwd=root)
    assert done.returncode == -9
    left = [path.name for path in (tmp_path / "stage").iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".tmp-")
    stage = Stage(tmp_path / "stage", store, Describer())
    assert stage.stage(release_of(store, "counter/v1.0.0")).path.is_dir()
    stage.sweep({release_of(store, "counter/v1.0.0").tree_id})
    assert len(list((tmp_path / "stage").iterdir())) == 1


def test_compiling_dies_in_its_child_when_source_takes_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bomb.py").write_text("x = " + "y + " * 60_000 + "y\n")
    with pytest.raises(ReleaseInvalid, match="byte-compiling"):
        sources.byte_compile(tmp_path, tmp_path)
    monkeypatch.setattr(sources, "WALL_S", 0.01)
    (tmp_path / "bomb.py").write_text("x = 1\n")
    with pytest.raises(StagingFailed, match=r"did not end within 0\.01 s"):
        sources.byte_compile(tmp_path, tmp_path)


def test_a_child_whose_host_was_killed_before_the_folder_was_filled_compiles_nothing(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("x = 1\n")
    given = ["compile", "1024", "30", str(tmp_path), str(tmp_path)]
    for said, found in ((b"", False), (b"now", True)):
        subprocess.run([sys.executable, "-I", source_child.__file__, *given], check=False, input=said)
        assert (tmp_path / "__pycache__").is_dir() is found


def test_a_child_that_was_started_for_nothing_is_gone_with_the_one_who_wanted_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sources.byte_compiling(tmp_path, tmp_path):
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), sources.reading_imports():
        _ = 1 / 0
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    commands = [Path(f"/proc/{each}/cmdline").read_bytes() for each in children]
    assert not [each for each in commands if b"source_child" in each or not each], commands
