"""The repository as the rest of the product sees it: releases, manifests, kept commits. Source: DESIGN §4."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from repo_store.errors import GitFailed, RefChanged, ReleaseInvalid, StoreError
from repo_store.failpoints import step
from repo_store.git import GitDoor
from repo_store.manifest import (
    AppManifest,
    ModuleManifest,
    parse_app,
    parse_module,
)
from repo_store.objects import ObjectReader
from repo_store.refs import Peeler, RefChange, list_refs, read_refs, update_refs
from repo_store.release import APP, RefMap, Release, Tag, TagRef, is_package_name, parse_tag, version_at
from repo_store.stamp import Stamp, is_unmoved, refs_stamp
from repo_store.starting import Start, directly
from repo_store.tag_files import PREFIX, TagFiles
from repo_store.tree import TREE, TreeEntry, object_id, tree_object

_CONFIG = {
    "core.fsync": "committed",
    "receive.fsckObjects": "true",
    "receive.procReceiveRefs": "refs/tags",
    "receive.advertisePushOptions": "true",
}


class RepoStore(ObjectReader):
    """One open bare repository. A context manager; use it from one thread at a time.

    Reads need a full commit id or tree id; nothing here reads a work tree. Every method may raise GitFailed.
    """

    def __init__(self, door: GitDoor) -> None:
        super().__init__(door)
        self._peeler = Peeler(door)
        self._tag_files = TagFiles(door.path)
        self._known: dict[str, str] = {}  # the tags of the last look: full name → object id
        self._refs: RefMap = {}  # and what they were

    @classmethod
    def create(cls, path: Path) -> RepoStore:
        """Make a new bare repository at `path`, configured for pushes, and open it.

        Raises StoreError if it exists.
        """
        path = Path(path).absolute()
        if path.exists() and any(path.iterdir()):
            raise StoreError(f"{path} is not empty; nothing was changed. Choose another directory.")
        path.mkdir(parents=True, exist_ok=True)
        with GitDoor(path) as door:
            door.run("init", "--quiet", "--bare", "--template=", "--initial-branch=main")
            for key, value in _CONFIG.items():
                door.run("config", "--file", str(path / "config"), key, value)
        return cls.open(path)

    @classmethod
    def open(
        cls, path: Path, quarantine: Mapping[str, str] | None = None, start: Start = directly
    ) -> RepoStore:
        """Open the bare repository at `path`; `quarantine` and `start` as for GitDoor.

        Raises StoreError if there is none.
        """
        path = Path(path).absolute()
        if not (path / "HEAD").is_file() or not (path / "objects").is_dir():
            hint = f"livetag init {path.parent}"
            raise StoreError(f"there is no bare Git repository at {path}. Make one with: {hint}")
        door = GitDoor(path, quarantine, start)
        if is_reftable(door):
            raise StoreError(
                f"{path} keeps its refs in reftable format, whose changes cannot be watched as files. "
                f"Convert it: git --git-dir={path} refs migrate --ref-format=files"
            )
        return cls(door)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._door.close()

    # Tags and refs

    def refs(self) -> RefMap:
        """Give every tag inside the grammar, by its short name, with the commit it leads to, damaged ones too."""
        refs, broken = self._read_tags()
        fresh = [ref for ref, target in refs.items() if self._known.get(ref) != target]
        gone = [ref for ref in self._known if ref not in refs]
        if fresh or gone:
            self._refs = self._changed(refs, fresh, gone)
        if not broken:
            return self._refs
        return {**self._refs, **{name: each for ref in broken for name, each in self._broken(ref)}}

    def _read_tags(self) -> tuple[Mapping[str, str], Sequence[str]]:
        """Full name → object id; and the names of those that are broken."""
        plain = self._tag_files.read()
        if plain is not None:
            return plain, ()
        condition = self._tag_files.condition()  # before Git looks: what comes after is not what it has seen
        found = read_refs(self._door, PREFIX)
        self._tag_files.see_all()
        self._tag_files.vouch(condition)
        return found

    def _changed(self, refs: Mapping[str, str], fresh: Sequence[str], gone: Sequence[str]) -> RefMap:
        """The map of the last look, with what has changed since."""
        tags = {ref: tag for ref in fresh if (tag := parse_tag(ref.removeprefix(PREFIX))) is not None}
        commits = self._peeler.commits(refs[ref] for ref in tags)  # before anything is noted: it may raise
        lost = self._peeler.lost
        found = dict(self._refs)
        for ref in gone:
            del self._known[ref]
            found.pop(ref.removeprefix(PREFIX), None)
        self._known.update((ref, refs[ref]) for ref in fresh)
        for ref, tag in tags.items():
            target = refs[ref]
            found[tag.name] = each = TagRef(tag, target, commits[target], lost.get(target, ""))
            if each.commit_id is None:
                self._known[ref] = (
                    ""  # it may come to lead to one, a fetch under way: asked again at each look
                )
        return {name: found[name] for name in sorted(found)}

    def _broken(self, ref: str) -> Iterator[tuple[str, TagRef]]:
        tag = parse_tag(ref.removeprefix(PREFIX))
        if tag is not None:
            yield tag.name, TagRef(tag, "", None, f"{self.path / ref} is not what Git writes")

    def stamp(self) -> Stamp:
        """Give a cheap sign of the tags, to be given to `is_unmoved`."""
        return refs_stamp(self.path)

    def is_unmoved(self, stamp: Stamp) -> bool:
        """Whether nobody has touched a tag since the stamp was taken."""
        return is_unmoved(stamp)

    def commits(self, object_ids: Iterable[str]) -> dict[str, str | None]:
        """Give the commit each id leads to; None for what leads to none, or is missing."""
        return self._peeler.commits(object_ids)

    def refs_after(self, changes: Mapping[str, str | None]) -> RefMap:
        """Give `refs()` as it would be: short tag name → the object it would point to, None if it would be gone."""
        refs = {name: ref for name, ref in self.refs().items() if name not in changes}
        commits = self._peeler.commits(new for new in changes.values() if new is not None)
        for name, new in changes.items():
            tag = parse_tag(name)
            if tag is not None and new is not None:
                refs[name] = TagRef(tag, new, commits[new])
        return refs

    def foreign_tags(self) -> list[str]:
        """Give the short names of the tags outside the grammar: they are ignored, and it can be said so."""
        names = (ref.removeprefix("refs/tags/") for ref in list_refs(self._door, "refs/tags/"))
        return [name for name in names if parse_tag(name) is None]

    def update_refs(
        self, changes: Sequence[RefChange], reason: str = "update", *, reflog: bool = False
    ) -> None:
        """Change refs in one compare-and-swap transaction.

        Raises RefChanged if one is not what is expected.
        """
        update_refs(self._door, changes, reason, reflog=reflog)

    def annotate(self, tag: Tag, commit_id: str, message: str, who: str, at: float | None = None) -> str:
        """Write an annotated tag object and give its id; no ref points at it yet.

        `who` may be `Name <mail>`.
        """
        name, mail = _identity(who)
        lines = [
            f"object {commit_id}",
            "type commit",
            f"tag {tag.name}",
            f"tagger {name} <{mail}> {int(time.time() if at is None else at)} +0000",
            "",
            message.strip("\n"),
            "",
        ]
        return self.write_tag("\n".join(lines).encode())

    def write_tag(self, content: bytes) -> str:
        """Write a tag object as it is and give its id; no ref points at it yet."""
        with step("tags.object"):
            return self._door.run("hash-object", "-t", "tag", "-w", "--stdin", stdin=content).decode().strip()

    def keep(self, *commit_ids: str) -> None:
        """Hold the commits against `git gc` with refs/keep/<commit>. Those already kept stay as they are.

        A push waits for this, so Git is started once for what no file says is kept, and again only where that is packed.
        """
        wanted = {each for each in commit_ids if not self._has_file_of(each)}
        try:
            self._begin_to_keep(wanted)
        except RefChanged:
            self._begin_to_keep(wanted - self.kept())

    def _has_file_of(self, commit_id: str) -> bool:
        """Whether the commit is kept by a ref that is a file of its own, as Git writes it."""
        try:
            return (self.path / "refs/keep" / commit_id).read_bytes() == f"{commit_id}\n".encode()
        except OSError:
            return False

    def _begin_to_keep(self, commit_ids: Iterable[str]) -> None:
        self.update_refs([RefChange(f"refs/keep/{each}", each, None) for each in sorted(commit_ids)], "keep")

    def kept(self) -> set[str]:
        """Give the ids of the commits that are held."""
        return {ref.removeprefix("refs/keep/") for ref in list_refs(self._door, "refs/keep/")}

    def unkeep(self, commit_ids: Iterable[str]) -> None:
        """Let the commits go; those that are not held are passed over."""
        gone = sorted(set(commit_ids) & self.kept())
        self.update_refs([RefChange(f"refs/keep/{each}", None, each) for each in gone], "let go")

    # Releases

    def modules_at(self, commit_id: str) -> list[str]:
        """Give the names of the packages in modules/ of that commit, sorted."""
        tree_id = self.tree_id(commit_id, "modules")
        rows = [] if tree_id is None else self.entries(tree_id)
        names = (row.name.decode("utf-8", "replace") for row in rows if row.mode == TREE)
        return sorted(name for name in names if is_package_name(name))

    def module_manifest(self, commit_id: str, package: str) -> ModuleManifest:
        """Read `modules/<package>/module.toml`; the defaults if there is none. Raises ManifestInvalid."""
        where = f"modules/{package}/module.toml"
        return parse_module(self.read_file(commit_id, where) or b"", where)

    def app_manifest(self, commit_id: str) -> AppManifest:
        """Read `app.toml`; raises ReleaseInvalid if that commit has none, ManifestInvalid if it is wrong."""
        data = self.read_file(commit_id, "app.toml")
        if data is None:
            raise ReleaseInvalid(f"commit {commit_id[:12]} has no app.toml, which an app/ tag releases.")
        return parse_app(data, "app.toml")

    def release(self, tag_ref: TagRef, refs: RefMap, package: str | None = None) -> Release:
        """Give what a tag selects. Raises ReleaseInvalid if there is no commit or no folder of the package.

        `package` is for a package without a tag of its own, taken from the commit of an `app/` tag (DESIGN
        §4).
        """
        tag, commit_id = tag_ref.tag, tag_ref.commit_id
        package = tag.package if package is None else package
        if commit_id is None:
            raise ReleaseInvalid(f"tag {tag.name} points at no commit, so it releases nothing. Tag a commit.")
        version = version_at(package, commit_id, refs) or tag.version
        tree_id = self._app_id(commit_id) if package == APP else self.release_identity(commit_id, package)
        return Release(package, str(version), tag.name, commit_id, tree_id, tag_ref.object_id)

    def release_identity(self, commit_id: str, package: str) -> str:
        """Give the id of exactly what is staged for a package: equal ids, equal code.

        Without shared folders it is the tree id of the package's folder; with them it is the id of the tree
        that holds the package and the shared folders by their last names, which need not exist in the
        repository.
        """
        parts = self.release_parts(commit_id, package)
        if len(parts) == 1:
            return parts[package]
        rows = [TreeEntry(TREE, name.encode(), tree_id) for name, tree_id in parts.items()]
        return object_id("tree", tree_object(rows), commit_id)

    def release_parts(self, commit_id: str, package: str) -> dict[str, str]:
        """Give top-level name → tree id of what is staged: the package first, then its shared folders."""
        own = self.tree_id(commit_id, f"modules/{package}")
        if own is None:
            raise ReleaseInvalid(
                f"commit {commit_id[:12]} has no folder modules/{package}/, which the tag releases. "
                f"Add it (with an __init__.py), commit, and tag that commit."
            )
        parts = {package: own}
        for folder in self.module_manifest(commit_id, package).shared:
            tree_id, name = self.tree_id(commit_id, folder), folder.rpartition("/")[2]
            if tree_id is None:
                raise ReleaseInvalid(
                    f"modules/{package}/module.toml: shared names {folder}, which is no folder there. "
                    f"Add the folder or take it out of shared."
                )
            if name in parts:
                where = f"modules/{package}/module.toml"
                raise ReleaseInvalid(
                    f"{where}: shared {folder} would hide the package itself. Rename the folder."
                )
            parts[name] = tree_id
        return parts

    def _app_id(self, commit_id: str) -> str:
        self.app_manifest(commit_id)
        row = self.entry(commit_id, "app.toml")
        return row.object_id if row is not None else commit_id


def is_reftable(door: GitDoor) -> bool:
    """Whether the repository keeps its refs in reftable format.

    An older Git refuses to open such a one at all.
    """
    try:
        listed = door.run("config", "--file", str(door.path / "config"), "--list", "-z")
    except GitFailed as error:
        if "refstorage" in str(error).lower():
            return True
        raise
    settings = (item.partition("\n") for item in listed.decode("utf-8", "replace").split("\0"))
    return any(key == "extensions.refstorage" and value.lower() == "reftable" for key, _, value in settings)


def _identity(who: str) -> tuple[str, str]:
    match = re.fullmatch(r"([^<>]*)<([^<>]*)>\s*", who)
    name, mail = match.groups() if match else (who, "")
    # < > and line ends would end the field in Git's object
    name = " ".join(re.sub(r"[\x00-\x1f<>]", " ", name).split())
    mail = re.sub(r"[\x00-\x20<>]", "", mail)
    return name or "livetag", mail or "livetag@localhost"
