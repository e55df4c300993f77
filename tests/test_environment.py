"""What the host offers to `[requires]` of a release."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from orchestrator.control.environment import host_environment


def test_every_distribution_is_found_at_the_version_that_its_metadata_tells() -> None:
    found = host_environment().distributions
    told = {canonicalize_name(str(each.metadata["Name"])): each.version for each in metadata.distributions()}
    assert len(told) > 10
    assert {name: Version(text) for name, text in found.items()} == {
        name: Version(text) for name, text in told.items()
    }


def test_a_distribution_whose_folder_tells_no_version_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, file in (("old_one.egg-info", "PKG-INFO"), ("odd_one.dist-info", "METADATA")):
        (tmp_path / folder).mkdir()
        name = folder.partition(".")[0].replace("_", ".")
        (tmp_path / folder / file).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = host_environment().distributions
    assert (found["old-one"], found["odd-one"]) == ("1.2.3", "1.2.3")


def test_of_two_of_one_name_the_one_that_is_imported_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MsgSpec-99.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert host_environment().distributions["msgspec"] == "99.0"


def test_distributions_that_are_not_in_folders_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_folders = host_environment()
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr(
            "zipped-4.5.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 4.5\n"
        )
    monkeypatch.syspath_prepend(tmp_path / "more.zip")
    found = host_environment().distributions
    assert found == {"zipped": "4.5", **in_folders.distributions}


def test_a_finder_of_distributions_that_somebody_has_put_in_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            return "Metadata-Version: 2.1\nName: own\nVersion: 6.7\n" if filename == "METADATA" else None

        def locate_file(self, path: object) -> Path:
            return Path(str(path))

    class Finder(metadata.DistributionFinder):
        def find_distributions(self, _context: object = None) -> list[metadata.Distribution]:
            return [Own()]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    found = host_environment().distributions
    assert found.get("own") == "6.7"
