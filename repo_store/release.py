"""Tags, versions and releases: the words of DESIGN §4. Pure: no Git, no disk, no clock."""

from __future__ import annotations

import functools
import keyword
import re
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass

APP = "app"
OWN_NAMES = frozenset({"orchestrator", "repo_store", "hooks", "sample_app", "livetag"})

_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Nine digits are plenty, and a tag of a million digits must not cost the host a second in int().
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-(alpha|beta|rc)\.{_NUMBER})?")


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """`X.Y.Z[-(alpha|beta|rc).N]`, compared here and nowhere else: 1.0.0-rc.2 < 1.0.0 < 1.0.1-alpha.0."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `text` (without a leading v); raises ValueError saying the grammar."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a version: X.Y.Z or X.Y.Z-(alpha|beta|rc).N, no leading zeros")
        major, minor, patch, label, number = match.groups()
        return cls(int(major), int(minor), int(patch), (label, int(number)) if label else None)

    @property
    def is_prerelease(self) -> bool:
        return self.pre is not None

    def __str__(self) -> str:
        core = f"{self.major}.{self.minor}.{self.patch}"
        return core if self.pre is None else f"{core}-{self.pre[0]}.{self.pre[1]}"

    def __lt__(self, other: object) -> bool:
        return self._key() < other._key() if isinstance(other, Version) else NotImplemented

    def next_patch(self) -> Version:
        """Give the smallest plain version above this one: 1.2.3 → 1.2.4, and 1.2.3-rc.1 → 1.2.3."""
        return Version(self.major, self.minor, self.patch + (0 if self.is_prerelease else 1))

    def satisfies(self, specifiers: str) -> bool:
        """Whether `specifiers` (PEP 440, e.g. ">=1.2,<2") hold for this version, pre-releases included."""
        pre = (
            ""
            if self.pre is None
            else {"alpha": "a", "beta": "b", "rc": "rc"}[self.pre[0]] + str(self.pre[1])
        )
        from packaging.specifiers import SpecifierSet  # 20 ms, which a hook that needs none of it would pay

        return SpecifierSet(specifiers).contains(
            f"{self.major}.{self.minor}.{self.patch}{pre}", prereleases=True
        )

    def _key(self) -> tuple[int, int, int, tuple[str, int]]:
        # "~" sorts behind "alpha", "beta" and "rc", which are in order: a release is above its candidates.
        return (self.major, self.minor, self.patch, self.pre or ("~", 0))


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag inside the grammar `<package>/v<version>`; the package `app` stands for the composition."""

    package: str
    version: Version

    @property
    def name(self) -> str:
        return f"{self.package}/v{self.version}"

    @property
    def ref(self) -> str:
        return f"refs/tags/{self.name}"


@dataclass(frozen=True, slots=True)
class TagRef:
    """Where a tag points now: the object of the ref, and the commit behind it (None: there is no commit).

    `lost` says why it cannot be told where it leads, which is damage and no wish of anybody: its ref is garbage (then
    `object_id` is empty), or its object is gone or unreadable.
    """

    tag: Tag
    object_id: str
    commit_id: str | None
    lost: str = ""


RefMap = Mapping[str, TagRef]
"""Short tag name (`counter/v1.2.0`) → where it points. Only tags inside the grammar."""


@dataclass(frozen=True, slots=True)
class Release:
    """What a tag selects. Two releases with one `tree_id` are the same code, whatever their tags and commits.

    `version` is the release's own: the lowest non-pre-release tag of the package at that commit (else the
    tag's). `tag` is the short name of the tag that selected it. `tree_id` covers the package's folder and its
    shared ones.
    """

    package: str
    version: str
    tag: str
    commit_id: str
    tree_id: str
    tag_object_id: str


def is_package_name(name: str) -> bool:
    """Whether `name` has the shape of a package or module name; it may still be reserved."""
    return _NAME.fullmatch(name) is not None


def package_name_problem(name: str, installed: Container[str] = ()) -> str | None:
    """Why no package may have this name, as a phrase for a message, or None if it may. Source: DESIGN §4.

    `installed` holds the top-level names of the host's distributions: a package must not shadow one.
    """
    if not is_package_name(name):
        return f"{name!r} is not a package name: lower-case letters, digits and _, a letter first"
    if name == APP:
        return "'app' names the composition (app.toml), not a package"
    if keyword.iskeyword(name):
        return f"{name!r} is a Python keyword, so no code could import it"
    if name in OWN_NAMES:
        return f"{name!r} is a package of livetag itself"
    if name in sys.stdlib_module_names:
        return f"{name!r} would shadow a module of the standard library"
    if name in installed:
        return f"{name!r} would shadow an installed distribution of the host"
    return None


def next_free_tag(package: str, refs: RefMap) -> Tag:
    """Give the next patch above the highest version of the package, so that every host selects it."""
    versions = [ref.tag.version for ref in refs.values() if ref.tag.package == package]
    return Tag(package, max(versions, default=Version(0, 0, 0)).next_patch())


def parse_tag(name: str) -> Tag | None:
    """Read `name` (without refs/tags/); None if it is outside the grammar and so ignored."""
    package, slash, version = name.partition("/v")
    if not slash or not is_package_name(package):
        return None
    try:
        return Tag(package, Version.parse(version))
    except ValueError:
        return None


def version_at(package: str, commit_id: str, refs: RefMap) -> Version | None:
    """Give the version of `package` at that commit: its lowest tag there that is no pre-release, or None."""
    return min(
        (
            ref.tag.version
            for ref in refs.values()
            if ref.commit_id == commit_id and ref.tag.package == package and not ref.tag.version.is_prerelease
        ),
        default=None,
    )
