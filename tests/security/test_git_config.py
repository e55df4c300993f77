"""Nothing in the repository's own configuration, refs or files makes the host run or read something else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from repo_store.errors import ReleaseInvalid, StoreError
from repo_store.folder import read_folder
from repo_store.git import GitDoor
from repo_store.inspect import inspect_release
from repo_store.refs import RefChange
from repo_store.tree import TREE, TreeEntry, tree_object
from tests.git_fixtures import GitRepo, bare_store, clean_environment

PROGRAMS = (
    "core.fsmonitor",
    "core.hooksPath",
    "core.sshCommand",
    "core.pager",
    "core.editor",
    "core.askPass",
    "core.gitProxy",
    "core.alternateRefsCommand",
    "uploadpack.packObjectsHook",
    "gpg.program",
    "gpg.ssh.program",
    "gpg.ssh.defaultKeyCommand",
    "diff.external",
    "diff.x.textconv",
    "filter.x.clean",
    "filter.x.smudge",
    "credential.helper",
    "alias.cat-file",
    "alias.for-each-ref",
    "pager.log",
    "trailer.x.command",
    "trailer.x.cmd",
    "sequence.editor",
    "interactive.diffFilter",
    "remote.origin.uploadpack",
    "remote.origin.vcs",
)


def test_no_program_that_the_repository_s_configuration_names_is_run(tmp_path: Path) -> None:
    ran, store_path = tmp_path / "ran", tmp_path / "store.git"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {ran}\n')
    program.chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "pre-receive", "post-index-change", "fsmonitor-watchman"):
        (hooks / name).write_text(program.read_text())
        (hooks / name).chmod(0o755)
    included = tmp_path / "included"
    included.write_text(f"[alias]\n\tupdate-ref = !{program}\n[core]\n\tfsmonitor = {program}\n")
    with bare_store(store_path) as store:
        work = GitRepo(tmp_path / "work", store_path)
        work.write(".gitattributes", "* filter=x diff=x\n")
        commit_id = work.release("counter/v1.0.0")
        for key in PROGRAMS:
            value = (
                str(hooks)
                if key == "core.hooksPath"
                else f"!{program}"
                if key.startswith("alias.")
                else str(program)
            )
            git_config(store_path, key, value)
        git_config(store_path, "include.path", str(included))
        git_config(store_path, "log.showSignature", "true")
        git_config(store_path, "protocol.ext.allow", "always")
        git_config(store_path, "remote.origin.url", f"ext::{program}")
        git_config(store_path, "remote.origin.promisor", "true")
        store.close()
        assert set(store.refs()) == {"counter/v1.0.0"}
        inspect_release(store, commit_id, "counter")
        with pytest.raises(StoreError):
            store.read_object("1" * 40, "blob")  # a missing object is not fetched from anywhere
        tag = store.annotate(store.refs()["counter/v1.0.0"].tag, commit_id, "message", "Ada <ada@x>")
        store.update_refs([RefChange("refs/keep/x", commit_id, None)], reflog=True)
        signed = (
            f"tree {store.tree_id(commit_id, 'modules')}\nauthor a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n"
            "gpgsig -----BEGIN PGP SIGNATURE-----\n \n xxxx\n -----END PGP SIGNATURE-----\n\nsigned\n"
        )
        store.door.run("log", "--end-of-options", written(store.door, "commit", signed.encode()))
        store.door.run("log", "--format=%(trailers:key=Outcome,valueonly)", "--end-of-options", commit_id)
        assert tag
    assert not ran.exists(), ran.read_text()


def test_replace_refs_and_grafts_show_the_host_nothing_else(tmp_path: Path) -> None:
    with bare_store(tmp_path / "store.git") as store:
        work = GitRepo(tmp_path / "work", tmp_path / "store.git")
        good = work.release("counter/v1.0.0")
        bad = work.release("counter/v1.1.0", code="raise SystemExit\n")
        tree = store.tree_id(good, "modules/counter")
        store.update_refs([RefChange(f"refs/replace/{good}", bad, None)])
        (tmp_path / "store.git" / "info").mkdir(exist_ok=True)
        (tmp_path / "store.git" / "info" / "grafts").write_text(f"{bad}\n")
        store.close()
        assert store.tree_id(good, "modules/counter") == tree
        assert store.door.run("rev-list", "--count", bad).strip() == b"2"


def test_a_new_repository_checks_what_it_receives_and_our_own_checks_hold_without_it(tmp_path: Path) -> None:
    with bare_store(tmp_path / "store.git") as store:
        config = ("config", "--file", str(tmp_path / "store.git" / "config"))
        assert store.door.run(*config, "receive.fsckObjects").strip() == b"true"
        store.door.run(*config, "receive.fsckObjects", "false")
        blob = written(store.door, "blob", b"x = 1\n")
        for name, mode in (
            (b"..", 0o100644),
            (b".git", TREE),
            (b"a\nb.py", 0o100644),
            (b"x", 0o120000),
            (b"x", 0o160000),
        ):
            forged = written(store.door, "tree", tree_object([TreeEntry(mode, name, blob)]))
            with pytest.raises(StoreError):
                read_folder(store, forged, "modules/counter")


def test_a_tree_that_holds_itself_many_times_over_is_refused_before_it_is_unfolded(tmp_path: Path) -> None:
    with bare_store(tmp_path / "store.git") as store:
        current = written(
            store.door, "tree", tree_object([TreeEntry(0o100644, b"x.py", written(store.door, "blob", b""))])
        )
        for _ in range(14):
            current = written(
                store.door, "tree", tree_object([TreeEntry(TREE, b"%02d" % n, current) for n in range(40)])
            )
        with pytest.raises(ReleaseInvalid, match="more than 5000 files"):
            read_folder(store, current, "modules/counter")
        for _ in range(3):
            current = written(store.door, "tree", tree_object([TreeEntry(TREE, b"only", current)]))
        with pytest.raises(ReleaseInvalid, match=r"deeper than 16|more than 5000"):
            read_folder(store, current, "modules/counter")


def written(door: GitDoor, kind: str, content: bytes) -> str:
    return door.run("hash-object", "-t", kind, "-w", "--literally", "--stdin", stdin=content).decode().strip()


def git_config(store: Path, key: str, value: str) -> None:
    subprocess.run(
        ["git", "config", "--file", str(store / "config"), key, value],
        check=True,
        env=clean_environment(),
        timeout=60,
    )
