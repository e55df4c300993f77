from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_store.errors import ManifestInvalid, ReleaseInvalid
from repo_store.folder import Folder, FolderFile, check_total, read_folder
from repo_store.inspect import InstalledNames, inspect_release
from repo_store.sources import read_imports
from repo_store.store import RepoStore
from tests.git_fixtures import GitRepo, bare_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RepoStore]:
    with bare_store(tmp_path / "store.git") as store:
        yield store


@pytest.fixture
def work(tmp_path: Path, store: RepoStore) -> GitRepo:
    return GitRepo(tmp_path / "work", remote=store.path)


def pushed(work: GitRepo) -> str:
    commit_id = work.commit()
    work.push("main", force=True)
    return commit_id


def refusal(store: RepoStore, commit_id: str, package: str = "counter") -> str:
    with pytest.raises(ReleaseInvalid) as caught:
        inspect_release(store, commit_id, package)
    return str(caught.value)


def test_a_sound_release_gives_its_manifest_and_nothing_of_it_runs(
    store: RepoStore, work: GitRepo, tmp_path: Path
) -> None:
    work.write("lib/wire/__init__.py", "SIZE = 1\n")
    work.module(
        code=f"import wire, json\nopen({str(tmp_path / 'ran')!r}, 'w')\n",
        toml='shared = ["lib/wire"]\ndurable = true',
    )
    work.write("modules/counter/sub/deep/x.py", "from counter import y\nfrom . import z\n")
    assert inspect_release(store, pushed(work), "counter").durable
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        ("json", "standard library"),
        ("msgspec", "installed distribution"),
        ("hooks", "livetag itself"),
        ("class", "keyword"),
    ],
)
def test_a_name_that_would_shadow_something_is_refused(
    store: RepoStore, work: GitRepo, package: str, reason: str
) -> None:
    work.module(package)
    message = refusal(store, pushed(work), package)
    assert reason in message
    assert "Rename the package" in message


def test_installed_names_are_those_of_distributions_only() -> None:
    installed = InstalledNames()
    assert "git" in installed
    assert "watchdog" in installed
    assert "counter" not in installed
    assert 3 not in installed


def test_a_missing_folder_and_a_package_without_init_are_said(store: RepoStore, work: GitRepo) -> None:
    work.write("modules/counter/core.py", "")
    commit_id = pushed(work)
    assert "no folder modules/clock/" in refusal(store, commit_id, "clock")
    assert "modules/counter has no __init__.py" in refusal(store, commit_id)


def test_symlinks_are_refused_wherever_they_are(store: RepoStore, work: GitRepo) -> None:
    work.module()
    (work.path / "modules/counter/data").symlink_to("/etc")
    assert "modules/counter/data is a symlink" in refusal(store, pushed(work))
    work.remove("modules/counter")
    work.module("real")
    (work.path / "modules/counter").symlink_to("real")
    assert "modules/counter is a symlink, not a folder" in refusal(store, pushed(work))


def test_a_submodule_is_refused(store: RepoStore, work: GitRepo) -> None:
    work.module()
    commit_id = work.commit()
    work.git("update-index", "--add", "--cacheinfo", f"160000,{commit_id},modules/counter/vendor")
    work.git("commit", "-qm", "vendor")
    work.push("main")
    assert "modules/counter/vendor is a submodule" in refusal(store, work.head())


@pytest.mark.parametrize(
    "name", ["fast.so", "fast.cpython-311-x86_64-linux-gnu.so", "libx.so.1", "a.PYD", "b.dylib"]
)
def test_a_native_library_is_refused_with_the_way_out(store: RepoStore, work: GitRepo, name: str) -> None:
    work.module()
    work.write(f"modules/counter/lib/{name}", b"\x7fELF")
    message = refusal(store, pushed(work))
    assert f"modules/counter/lib/{name} is a native library" in message
    assert "[requires]" in message


@pytest.mark.parametrize("name", ["__pycache__/x.cpython-311.pyc", "core.pyc", "__pycache__/x.py"])
def test_compiled_code_is_refused_because_it_may_differ_from_its_source(
    store: RepoStore, work: GitRepo, name: str
) -> None:
    work.module()
    work.write(f"modules/counter/{name}", b"x")
    assert "is compiled code" in refusal(store, pushed(work))


def test_names_of_odd_bytes_are_refused_and_shown_safely(store: RepoStore, work: GitRepo) -> None:
    work.module()
    (work.path / "modules/counter" / os.fsdecode(b"caf\xe9.py")).write_text("")
    assert r"modules/counter/caf\\xe9.py: the name is not UTF-8" in refusal(store, pushed(work))
    (work.path / "modules/counter" / os.fsdecode(b"caf\xe9.py")).unlink()
    (work.path / "modules/counter/a\x1b[31m\n.py").write_text("")
    message = refusal(store, pushed(work))
    assert r"a\x1b[31m\n.py: the name holds a control character" in message
    (work.path / "modules/counter/a\x1b[31m\n.py").unlink()
    (work.path / "modules/counter/a\\b.py").write_text("")
    assert "backslash" in refusal(store, pushed(work))


def test_an_ordinary_name_in_another_script_is_fine(store: RepoStore, work: GitRepo) -> None:
    work.module()
    work.write("modules/counter/größe.py", "x = 'ñ'\n")
    inspect_release(store, pushed(work), "counter")


def test_limits_of_number_size_and_depth_are_named(store: RepoStore, work: GitRepo) -> None:
    work.module()
    blob = work.git("hash-object", "-w", "--stdin", stdin="x")
    rows = "".join(f"100644 blob {blob}\tf{n}.txt\n" for n in range(5001))
    many = work.git("mktree", stdin=rows)
    work.git("push", "-q", "live", f"{commit_of(work, {'counter': many})}:refs/heads/many")
    assert "more than 5000 files" in refusal(store, work.git("rev-parse", "live/many"))
    deep = work.git("mktree", stdin=f"100644 blob {blob}\tx.txt\n")
    for level in range(17):
        deep = work.git("mktree", stdin=f"040000 tree {deep}\td{level}\n")
    work.git("push", "-q", "live", f"{commit_of(work, {'counter': deep})}:refs/heads/deep")
    assert "deeper than 16 folders" in refusal(store, work.git("rev-parse", "live/deep"))
    work.write("modules/counter/big.bin", b"\0" * (65 << 20))
    message = refusal(store, pushed(work))
    assert "most of them in big.bin" in message


def test_a_package_and_its_shared_folders_are_counted_together() -> None:
    def folder(files: int, size: int) -> Folder:
        return Folder("t", tuple(FolderFile(f"{n}.py", 0o100644, "o", size) for n in range(files)), ())

    check_total([folder(2500, 1), folder(2500, 1)], "modules/counter")
    with pytest.raises(
        ReleaseInvalid, match="modules/counter and its shared folders have 5001 files; at most 5000"
    ):
        check_total([folder(2500, 1), folder(2501, 1)], "modules/counter")
    with pytest.raises(ReleaseInvalid, match=r"its shared folders have \d+ bytes; at most 67108864"):
        check_total([folder(33, 1 << 20), folder(32, 1 << 20)], "modules/counter")


def commit_of(work: GitRepo, modules: dict[str, str]) -> str:
    inner = work.git(
        "mktree", stdin="".join(f"040000 tree {tree}\t{name}\n" for name, tree in modules.items())
    )
    root = work.git("mktree", stdin=f"040000 tree {inner}\tmodules\n")
    return work.git("commit-tree", root, "-m", "made by hand")


def test_a_tree_that_holds_itself_over_and_over_costs_nothing(store: RepoStore, work: GitRepo) -> None:
    tree = work.git("mktree", stdin="")
    for _ in range(14):
        tree = work.git("mktree", stdin="".join(f"040000 tree {tree}\td{n}\n" for n in range(10)))
    work.git("push", "-q", "live", f"{commit_of(work, {'counter': tree})}:refs/heads/bomb")
    assert "more than 5000 files" in refusal(store, work.git("rev-parse", "live/bomb"))


def test_a_tree_not_in_gits_own_form_is_refused(store: RepoStore, work: GitRepo) -> None:
    blob = work.git("hash-object", "-w", "--stdin", stdin="x")
    raw = b"".join(b"100644 %s\0%s" % (name, bytes.fromhex(blob)) for name in (b"b", b"a"))
    tree = (
        store.door.run("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw)
        .decode()
        .strip()
    )
    with pytest.raises(ReleaseInvalid, match="damaged or forged tree"):
        read_folder(store, tree, "modules/counter")


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("def f(:\n  pass\n", "modules/counter/core.py, line 1: "),
        ("x = 1\n\nif x\n", "modules/counter/core.py, line 3: "),
        ("a\0b", "modules/counter/core.py"),
        ("# coding: klingon\n", "modules/counter/core.py"),
        ("x = " + "(" * 5000 + ")" * 5000, "modules/counter/core.py"),
        ("x = " + "-" * 200_000 + "1", "modules/counter/core.py"),
    ],
)
def test_source_that_does_not_parse_is_named_with_its_line_even_if_it_crashes_the_parser(
    store: RepoStore, work: GitRepo, source: str, where: str
) -> None:
    work.module()
    work.write("modules/counter/core.py", source.encode())
    assert refusal(store, pushed(work)).startswith(where)


def test_importing_another_module_is_refused_with_what_to_do_instead(store: RepoStore, work: GitRepo) -> None:
    work.module("clock")
    for code in (
        "import clock",
        "def f():\n    from clock.core import x\n",
        "import modules.clock",
        "import os, clock.a as b",
    ):
        work.module("counter", code)
        message = refusal(store, pushed(work))
        assert "imports clock, which is another module" in message
        assert "modules/counter/__init__.py, line " in message
        assert "shared = [...]" in message
    work.module("counter", "from . import clock\nfrom counter import clock\nimport clocks\n")
    inspect_release(store, pushed(work), "counter")


def test_a_module_of_a_name_that_is_taken_does_not_forbid_the_import_of_the_real_one(
    store: RepoStore, work: GitRepo
) -> None:
    work.module("json")
    work.module("counter", "import json\n")
    inspect_release(store, pushed(work), "counter")


def test_a_shared_folder_is_checked_like_the_package(store: RepoStore, work: GitRepo) -> None:
    work.module(toml='shared = ["lib/wire"]')
    work.write("lib/wire/__init__.py", "import clock\n")
    work.module("clock")
    assert "lib/wire/__init__.py, line 1: imports clock" in refusal(store, pushed(work))
    work.write("lib/wire/__init__.py", "def f(:")
    assert "lib/wire/__init__.py, line 1" in refusal(store, pushed(work))
    work.remove("lib/wire/__init__.py")
    work.write("lib/wire/other.py", "")
    assert "the shared folder wire has no __init__.py" in refusal(store, pushed(work))
    work.module(toml='shared = ["lib/clock"]')
    work.write("lib/clock/__init__.py", "")
    assert "has the name of another module" in refusal(store, pushed(work))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("other:Counter", "outside the package"),
        ("counter.core:Counter", "modules/counter/core.py"),
        ("Counter", "module:Class"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(store: RepoStore, work: GitRepo, entry: str, reason: str) -> None:
    work.module(toml=f'entry = "{entry}"')
    assert reason in refusal(store, pushed(work))


def test_an_entry_in_a_module_or_a_package_inside_is_found(store: RepoStore, work: GitRepo) -> None:
    work.module(toml='entry = "counter.core:Counter"')
    work.write("modules/counter/core/__init__.py", "")
    inspect_release(store, pushed(work), "counter")


def test_a_broken_manifest_keeps_its_own_error(store: RepoStore, work: GitRepo) -> None:
    work.module(toml="durable = 1")
    with pytest.raises(ManifestInvalid, match=r"modules/counter/module\.toml: durable = 1"):
        inspect_release(store, pushed(work), "counter")


def test_imports_are_read_with_their_lines() -> None:
    found = read_imports({"a.py": b"import x.y, z\nfrom p.q import r\nfrom . import s\n", "b.py": b""})
    assert [(each.path, each.name, each.line) for each in found] == [
        ("a.py", "x.y", 1),
        ("a.py", "z", 1),
        ("a.py", "p.q.r", 2),
    ]
    assert read_imports({}) == []
