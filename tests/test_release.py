from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_store.release import Tag, TagRef, Version, package_name_problem, parse_tag, version_at

LADDER = [
    "0.9.9",
    "1.0.0-alpha.2",
    "1.0.0-alpha.10",
    "1.0.0-beta.0",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1-rc.0",
    "1.0.10",
    "1.1.0",
    "2.0.0",
]

versions = st.builds(
    Version,
    st.integers(0, 999),
    st.integers(0, 999),
    st.integers(0, 999),
    st.none() | st.tuples(st.sampled_from(["alpha", "beta", "rc"]), st.integers(0, 99)),
)


def ref(name: str, commit_id: str | None) -> tuple[str, TagRef]:
    tag = parse_tag(name)
    assert tag is not None
    return name, TagRef(tag, "f" * 40, commit_id)


def test_versions_are_ordered_by_number_and_a_candidate_stands_below_its_release() -> None:
    ladder = [Version.parse(text) for text in LADDER]
    for low, high in itertools.combinations(ladder, 2):
        assert low < high
        assert high >= low
    assert sorted(ladder) == ladder


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.0",
        "v1.0.0",
        "01.0.0",
        "1.0.0-rc",
        "1.0.0-rc.01",
        "1.0.0-dev.1",
        "1.0.0+b",
        "1.0.0 ",
        "1.0.0\n",
        "1.0.٣",
        "9" * 5000 + ".0.0",
    ],
)
def test_a_version_outside_the_grammar_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(ValueError, match=r"X\.Y\.Z"):
        Version.parse(text)
    assert parse_tag(f"counter/v{text}") is None


@given(versions)
def test_a_version_reads_back_as_itself(version: Version) -> None:
    assert Version.parse(str(version)) == version
    assert parse_tag(Tag("counter", version).name) == Tag("counter", version)
    assert version < version.next_patch()
    assert not version.next_patch().is_prerelease


@pytest.mark.parametrize("name", ["counter/v1.0.0", "app/v2.1.0-rc.1", "a_1/v0.0.0"])
def test_a_tag_of_the_grammar_is_read_and_knows_its_ref(name: str) -> None:
    tag = parse_tag(name)
    assert tag is not None
    assert tag.name == name
    assert tag.ref == f"refs/tags/{name}"


@pytest.mark.parametrize(
    "name",
    [
        "v1.0.0",
        "counter",
        "counter/1.0.0",
        "Counter/v1.0.0",
        "a/b/v1.0.0",
        "/v1.0.0",
        "-x/v1.0.0",
        "café/v1.0.0",
    ],
)
def test_any_other_tag_is_outside(name: str) -> None:
    assert parse_tag(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("app", "composition"),
        ("class", "keyword"),
        ("livetag", "livetag itself"),
        ("orchestrator", "livetag itself"),
        ("json", "standard library"),
        ("msgspec", "installed distribution"),
        ("9lives", "not a package name"),
        ("Upper", "not a package name"),
        ("a-b", "not a package name"),
        ("", "not a package name"),
    ],
)
def test_a_name_that_no_package_may_have_is_explained(name: str, reason: str) -> None:
    assert reason in (package_name_problem(name, {"msgspec"}) or "")


def test_an_ordinary_name_has_no_problem() -> None:
    assert package_name_problem("counter", {"msgspec"}) is None


def test_the_version_of_a_commit_is_its_lowest_plain_tag_of_that_package() -> None:
    refs = dict(
        [
            ref("counter/v1.3.1", "c1"),
            ref("counter/v1.1.0", "c1"),
            ref("counter/v1.1.0-rc.1", "c1"),
            ref("counter/v1.0.0", "c0"),
            ref("clock/v0.1.0", "c1"),
            ref("counter/v0.0.1", None),
        ]
    )
    assert version_at("counter", "c1", refs) == Version(1, 1, 0)
    assert version_at("clock", "c0", refs) is None


def test_a_pre_release_alone_gives_a_commit_no_version() -> None:
    assert version_at("counter", "c1", dict([ref("counter/v1.1.0-rc.1", "c1")])) is None


@pytest.mark.parametrize(
    ("version", "specifiers", "holds"),
    [
        ("1.2.0", ">=1.2,<2", True),
        ("2.0.0", ">=1.2,<2", False),
        ("1.2.0-rc.1", ">=1.2", False),
        ("1.2.0-rc.1", ">=1.1", True),
        ("1.2.0", "", True),
    ],
)
def test_requirements_are_read_as_python_specifiers(version: str, specifiers: str, holds: bool) -> None:
    assert Version.parse(version).satisfies(specifiers) is holds
