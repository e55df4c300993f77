from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_store import objects
from repo_store.errors import GitFailed, ManifestInvalid, RefChanged, ReleaseInvalid, StoreError
from repo_store.git import GitDoor
from repo_store.refs import RefChange
from repo_store.release import parse_tag
from repo_store.store import RepoStore
from tests.git_fixtures import GitRepo, bare_store, tag_ref


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RepoStore]:
    with bare_store(tmp_path / "store.git") as store:
        yield store


@pytest.fixture
def work(tmp_path: Path, store: RepoStore) -> GitRepo:
    return GitRepo(tmp_path / "work", remote=store.path)


def test_a_new_store_is_a_bare_repository_that_checks_what_is_pushed(tmp_path: Path) -> None:
    with RepoStore.create(tmp_path / "s.git") as store:
        config = store.door.run("config", "--file", str(store.path / "config"), "--list").decode()
    for line in ("core.bare=true", "receive.fsckobjects=true", "receive.procreceiverefs=refs/tags"):
        assert line in config.splitlines()
    with pytest.raises(StoreError, match="not empty"):
        RepoStore.create(tmp_path / "s.git")


def test_a_place_without_a_repository_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no bare Git repository at .* livetag init"):
        RepoStore.open(tmp_path)


def test_a_reftable_repository_is_refused_with_the_way_out(store: RepoStore) -> None:
    with (store.path / "config").open("a") as config:
        config.write("[core]\n\trepositoryformatversion = 1\n[extensions]\n\trefStorage = reftable\n")
    with pytest.raises(StoreError, match="refs migrate --ref-format=files"):
        RepoStore.open(store.path)


def test_refs_are_the_tags_of_the_grammar_each_with_its_commit(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.commit()
    annotated = work.tag("counter/v1.0.0", annotate="first")
    nested = work.tag("counter/v1.0.1", annotated, annotate="a tag of a tag of a commit")
    work.tag("counter/v1.0.2")
    work.tag("v9")
    work.tag("counter/latest")
    work.push()
    refs = store.refs()
    assert {name: (ref.object_id, ref.commit_id) for name, ref in refs.items()} == {
        "counter/v1.0.0": (annotated, commit_id),
        "counter/v1.0.1": (nested, commit_id),
        "counter/v1.0.2": (commit_id, commit_id),
    }
    assert sorted(store.foreign_tags()) == ["counter/latest", "v9"]


def test_a_tag_of_a_blob_a_tree_or_nothing_leads_to_no_commit(store: RepoStore, work: GitRepo) -> None:
    work.write("a.txt", "a")
    work.commit()
    work.tag("counter/v1.0.0", "HEAD:a.txt")
    work.tag("counter/v1.0.1", "HEAD^{tree}", annotate="a tree")
    work.push()
    (store.path / "refs/tags/counter/v1.0.2").write_text("3" * 40 + "\n")
    (store.path / "refs/tags/counter/v1.0.3").write_text("garbage\n")
    refs = store.refs()
    assert {name: ref.commit_id for name, ref in refs.items()} == {
        "counter/v1.0.0": None,
        "counter/v1.0.1": None,
        "counter/v1.0.2": None,
        "counter/v1.0.3": None,
    }
    assert {name for name, ref in refs.items() if ref.lost} == {"counter/v1.0.2", "counter/v1.0.3"}
    with pytest.raises(ReleaseInvalid, match=r"counter/v1\.0\.0 points at no commit"):
        store.release(refs["counter/v1.0.0"], refs)


def test_an_object_over_which_git_dies_hides_no_other_tag(store: RepoStore, work: GitRepo) -> None:
    whole = [work.release("counter/v1.0.0"), work.release("counter/v1.2.0")]
    broken = work.release("counter/v1.1.0")
    path = store.path / "objects" / broken[:2] / broken[2:]
    path.unlink()
    path.mkdir()  # as for a disk's read error, Git ends with "fatal:" where a missing object is only said
    with RepoStore.open(store.path) as fresh:
        refs = fresh.refs()
    found = {name: ref.commit_id for name, ref in refs.items()}
    assert found == {"counter/v1.0.0": whole[0], "counter/v1.1.0": None, "counter/v1.2.0": whole[1]}
    assert refs["counter/v1.1.0"].lost
    assert not refs["counter/v1.2.0"].lost


def test_packed_refs_read_the_same_as_loose_ones(store: RepoStore, work: GitRepo) -> None:
    for minor in range(20):
        work.commit()
        work.tag(f"counter/v1.{minor}.0", annotate="x" if minor % 2 else None)
    work.push()
    loose = store.refs()
    store.door.run("pack-refs", "--all")
    assert store.refs() == loose
    assert len(loose) == 20


def test_a_ref_name_of_odd_bytes_is_foreign_and_hurts_nobody(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    (store.path / "packed-refs").write_bytes(
        b"# pack-refs with: peeled fully-peeled sorted \n" + commit_id.encode() + b" refs/tags/caf\xe9\xff\n"
    )
    assert list(store.refs()) == ["counter/v1.0.0"]
    assert store.foreign_tags() == ["caf\udce9\udcff"]


def test_a_release_carries_the_lowest_version_of_its_commit_and_the_tag_that_chose_it(
    store: RepoStore, work: GitRepo
) -> None:
    commit_id = work.release("counter/v1.1.0")
    object_id = work.tag("counter/v1.3.1", annotate="back to 1.1.0")
    work.push()
    refs = store.refs()
    release = store.release(refs["counter/v1.3.1"], refs)
    assert (release.package, release.version, release.tag) == ("counter", "1.1.0", "counter/v1.3.1")
    assert (release.commit_id, release.tag_object_id) == (commit_id, object_id)
    assert release.tree_id == work.git("rev-parse", "HEAD:modules/counter")


def test_a_release_candidate_keeps_its_own_version(store: RepoStore, work: GitRepo) -> None:
    work.release("counter/v1.1.0-rc.1")
    refs = store.refs()
    assert store.release(refs["counter/v1.1.0-rc.1"], refs).version == "1.1.0-rc.1"


def test_a_release_without_its_folder_says_what_to_add(store: RepoStore, work: GitRepo) -> None:
    work.write("modules/counter", "a file, not a folder")
    work.commit()
    work.tag("counter/v1.0.0")
    work.push()
    with pytest.raises(ReleaseInvalid, match=r"no folder modules/counter/.*Add it"):
        store.release(tag_ref(store, "counter/v1.0.0"), store.refs())


def test_shared_folders_are_part_of_the_identity(store: RepoStore, work: GitRepo) -> None:
    work.write("lib/wire/__init__.py", "SIZE = 1\n")
    work.module(toml='shared = ["lib/wire"]')
    first = work.commit()
    work.write("lib/wire/__init__.py", "SIZE = 2\n")
    second = work.commit()
    work.write("README", "not part of it")
    third = work.commit()
    work.push("main")
    identities = [store.release_identity(each, "counter") for each in (first, second, third)]
    assert identities[0] != identities[1] == identities[2]
    own, wire = (work.git("rev-parse", f"HEAD:{folder}") for folder in ("modules/counter", "lib/wire"))
    rows = f"040000 tree {own}\tcounter\n040000 tree {wire}\twire\n"
    assert identities[2] == work.git("mktree", stdin=rows), "Git itself gives this tree the same id"


def test_a_shared_folder_that_is_missing_is_named(store: RepoStore, work: GitRepo) -> None:
    work.release("counter/v1.0.0", toml='shared = ["lib/wire"]')
    with pytest.raises(ReleaseInvalid, match="shared names lib/wire, which is no folder"):
        store.release(tag_ref(store, "counter/v1.0.0"), store.refs())


def test_a_shared_folder_may_not_hide_the_package_itself(store: RepoStore, work: GitRepo) -> None:
    work.write("lib/counter/__init__.py", "")
    work.release("counter/v1.0.0", toml='shared = ["lib/counter"]')
    with pytest.raises(ReleaseInvalid, match="shared lib/counter would hide the package"):
        store.release(tag_ref(store, "counter/v1.0.0"), store.refs())


def test_the_composition_is_a_release_too(store: RepoStore, work: GitRepo) -> None:
    work.write("app.toml", '[modules.counter]\nconfig = { by = 2 }\n[modules.second]\npackage = "counter"\n')
    work.module()
    commit_id = work.commit()
    work.tag("app/v1.0.0")
    work.push()
    refs = store.refs()
    release = store.release(refs["app/v1.0.0"], refs)
    assert (release.package, release.tree_id) == ("app", work.git("rev-parse", "HEAD:app.toml"))
    assert list(store.app_manifest(commit_id).modules) == ["counter", "second"]
    untagged = store.release(refs["app/v1.0.0"], refs, package="counter")
    assert (untagged.package, untagged.version, untagged.tag) == ("counter", "1.0.0", "app/v1.0.0")


def test_an_app_tag_without_an_app_toml_is_refused(store: RepoStore, work: GitRepo) -> None:
    work.commit()
    work.tag("app/v1.0.0")
    work.push()
    with pytest.raises(ReleaseInvalid, match=r"has no app\.toml"):
        store.release(tag_ref(store, "app/v1.0.0"), store.refs())


def test_manifests_are_read_from_the_commit_and_errors_name_the_file(store: RepoStore, work: GitRepo) -> None:
    work.module("counter", toml="durable = true")
    work.module("clock", toml="durable = 3")
    work.module("plain")
    work.write("modules/README", "no module")
    work.write("modules/Odd/x.py", "")
    commit_id = work.commit()
    work.push("main")
    assert store.modules_at(commit_id) == ["clock", "counter", "plain"]
    assert store.module_manifest(commit_id, "counter").durable
    assert not store.module_manifest(commit_id, "plain").durable
    with pytest.raises(ManifestInvalid, match=r"modules/clock/module\.toml: durable = 3"):
        store.module_manifest(commit_id, "clock")
    assert store.read_file(commit_id, "modules/none/module.toml") is None
    assert store.read_file(commit_id, "modules/README/x") is None


def test_a_manifest_that_is_a_symlink_or_huge_is_refused_unread(store: RepoStore, work: GitRepo) -> None:
    work.module()
    (work.path / "modules/counter/module.toml").symlink_to("/etc/passwd")
    linked = work.commit()
    (work.path / "modules/counter/module.toml").unlink()
    work.write("modules/counter/module.toml", b"#" * 300_000)
    huge = work.commit()
    work.push("main")
    with pytest.raises(ReleaseInvalid, match="not a regular file"):
        store.module_manifest(linked, "counter")
    with pytest.raises(ReleaseInvalid, match=r"counter/module\.toml: .*300000 bytes; at most 262144"):
        store.module_manifest(huge, "counter")


def test_refs_change_together_or_not_at_all(store: RepoStore, work: GitRepo) -> None:
    first, second = work.commit("1"), work.commit("2")
    work.push("main")
    store.update_refs([RefChange("refs/live/a", first, None), RefChange("refs/live/b", first, None)])
    with pytest.raises(RefChanged, match=f"refs/live/b is {first}, not {second}"):
        store.update_refs([RefChange("refs/live/a", second, first), RefChange("refs/live/b", None, second)])
    with pytest.raises(RefChanged, match=f"refs/live/a is {first}, not absent"):
        store.update_refs([RefChange("refs/live/a", second, None)])
    with pytest.raises(RefChanged, match="refs/live/c is absent"):
        store.update_refs([RefChange("refs/live/c", second, first)])
    listed = work.git("ls-remote", "live", "refs/live/*").split()
    assert listed == [first, "refs/live/a", first, "refs/live/b"]
    store.update_refs([RefChange("refs/live/a", second, first), RefChange("refs/live/b", None, first)])
    assert work.git("ls-remote", "live", "refs/live/*").split() == [second, "refs/live/a"]
    store.update_refs([])


def test_a_change_that_git_refuses_for_another_reason_is_no_lost_race(store: RepoStore) -> None:
    with pytest.raises(GitFailed):
        store.update_refs([RefChange("refs/live/a", "4" * 40, None)])


def test_a_written_tag_object_is_a_real_annotated_tag(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    tag = parse_tag("counter/v1.0.1")
    assert tag is not None
    object_id = store.annotate(
        tag, commit_id, "back to 1.0.0\n\nit leaks", "Eve <eve@x> \n<evil", at=1_700_000_000.9
    )
    assert "counter/v1.0.1" not in store.refs()
    store.update_refs([RefChange(tag.ref, object_id, None)], "rollback")
    assert store.refs()["counter/v1.0.1"].commit_id == commit_id
    work.git("fetch", "-q", "live", "--tags")
    shown = work.git("for-each-ref", "--format=%(taggername)|%(taggerdate:unix)|%(contents:subject)", tag.ref)
    assert shown == "Eve eve@x evil|1700000000|back to 1.0.0"
    work.git("fsck", "--strict")


def test_commits_are_kept_anew_where_one_of_them_is_packed_and_one_has_a_file(
    store: RepoStore, work: GitRepo
) -> None:
    packed, in_a_file, new = (work.release(f"counter/v1.0.{n}") for n in range(3))
    work.push()
    store.keep(packed)
    with GitDoor(store.path) as door:
        door.run("pack-refs", "--all")
    store.keep(in_a_file)
    store.keep(packed, in_a_file, new)
    assert store.kept() == {packed, in_a_file, new}


def test_a_file_that_is_no_ref_of_git_s_keeps_no_commit(store: RepoStore, work: GitRepo) -> None:
    commit_id = work.release("counter/v1.0.0")
    work.push()
    file = store.path / "refs" / "keep" / commit_id
    file.parent.mkdir()
    file.write_text("")  # as a power cut leaves it
    with pytest.raises(GitFailed):
        store.keep(commit_id)
    file.unlink()
    store.keep(commit_id)
    assert store.kept() == {commit_id}


def test_many_files_are_read_in_order_also_more_than_are_asked_for_at_once(
    store: RepoStore, work: GitRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "AT_ONCE_BYTES_MAX", 10_000)
    texts = [f"{n}\n" * (5_000 if n == 7 else 40) for n in range(300)]
    for n, text in enumerate(texts):
        work.write(f"modules/counter/part{n:03}.py", text)
    commit_id = work.release("counter/v1.0.0")
    work.push()
    tree_id = store.tree_id(commit_id, "modules/counter")
    assert tree_id is not None
    rows = {row.name.decode(): row.object_id for row in store.entries(tree_id)}
    limits = [(rows[f"part{n:03}.py"], len(text)) for n, text in enumerate(texts)]
    assert [data.decode() for data in store.read_blobs(limits)] == texts
    assert list(store.read_blobs([])) == []
    with pytest.raises(ReleaseInvalid, match="has 10000 bytes; at most 9999"):
        list(store.read_blobs([*limits[:7], (limits[7][0], 9_999)]))
    with pytest.raises(ReleaseInvalid, match="is a tree, not a blob"):
        list(store.read_blobs([(tree_id, 100)]))
    with pytest.raises(GitFailed, match="1 is missing in"):
        list(store.read_blobs([("0" * 39 + "1", 100), *limits[:1]]))
    ids = [object_id for object_id, _ in limits[:2]]
    with pytest.raises(GitFailed, match="is missing in the repository"):
        store.door.cat_all([ids[0], "0" * 39 + "1", ids[1]])
    answers = store.door.cat_all(ids[::-1])  # what was left of the answers before is not taken for these
    assert [data.decode() for _, data in answers] == texts[1::-1]


def test_a_kept_commit_survives_the_harshest_gc(store: RepoStore, work: GitRepo) -> None:
    kept = work.release("counter/v1.0.0")
    lost = work.commit()
    work.push()
    store.keep(kept)
    store.keep(kept, kept)
    store.update_refs(
        [RefChange("refs/heads/main", None, lost), RefChange("refs/tags/counter/v1.0.0", None, kept)]
    )
    with GitDoor(store.path) as door:
        door.run("reflog", "expire", "--expire=now", "--all")
        door.run("gc", "--prune=now", "--quiet")
        assert door.infos([kept, lost])[1] is None
    assert store.kept() == {kept}
    assert store.read_file(kept, "modules/counter/__init__.py")
    store.unkeep([kept, lost])
    assert store.kept() == set()


def test_gc_has_nothing_to_complain_about_after_annotated_tags_were_pushed(
    store: RepoStore, work: GitRepo
) -> None:
    work.module()
    work.commit()
    work.tag("counter/v1.0.0", annotate="one")
    work.push("main", "counter/v1.0.0")

    done = subprocess.run(
        ["git", f"--git-dir={store.path}", "gc", "--quiet"], capture_output=True, text=True, check=True
    )

    assert done.stderr == ""
