"""What this process offers to `[requires]` of a release: its Python and its distributions."""

import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import PurePath

from orchestrator.upgrade.checks import Environment

_TELLS = ("dist-info", "egg-info")  # also of an egg, where the folder has no other name


def host_environment() -> Environment:
    """Read once, as the process has it."""
    found: dict[str, str] = {}
    for name, version in _in_folders() if _only_folders() else _in_all():
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)  # the canonical name
    return Environment(".".join(map(str, sys.version_info[:3])), found)


def _only_folders() -> bool:
    """Whether all that can be imported lies in folders: no archive, and no finder that has distributions of its own."""
    return not any(map(os.path.isfile, sys.path)) and all(
        finder is PathFinder or not hasattr(finder, "find_distributions") for finder in sys.meta_path
    )


def _in_folders() -> Iterator[tuple[str, str]]:
    """Name and version of each, in the order of the path.

    The names of their folders tell them. `importlib.metadata` brings the email package: 25 ms of each start of a host.
    """
    for place in sys.path:
        try:
            folders = os.listdir(place or ".")  # noqa: PTH208  # strings are what the path has
        except OSError:  # a place that is not there
            continue
        for folder in folders:
            if folder.lower().endswith(_TELLS):
                yield _told_by(folder) or _read(os.path.join(place, folder))  # noqa: PTH118


def _in_all() -> Iterator[tuple[str, str]]:
    from importlib import metadata  # late, see above

    for each in metadata.distributions():
        told = _told_by(PurePath(str(getattr(each, "_path", ""))).name)
        yield told or (each.metadata["Name"] or "", each.version)


def _told_by(folder: str) -> tuple[str, str] | None:
    """What the name of its folder tells; reading the METADATA of every distribution would be 20 ms of each start."""
    stem, suffix = os.path.splitext(folder)  # noqa: PTH122
    parts = stem.split("-")
    return (parts[0], parts[1]) if suffix == ".dist-info" and len(parts) == 2 else None


def _read(folder: str) -> tuple[str, str]:
    from importlib import metadata  # late, see above

    found = metadata.Distribution.at(folder)
    return found.metadata["Name"] or "", found.version
