"""What this process offers to `[requires]` of a release: its Python and its distributions."""

import re
import sys
from importlib import metadata
from pathlib import PurePath

from orchestrator.upgrade.checks import Environment


def host_environment() -> Environment:
    """Read once, as the process has it."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name, version = _name_and_version(distribution)
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)  # the canonical name
    return Environment(".".join(map(str, sys.version_info[:3])), found)


def _name_and_version(distribution: metadata.Distribution) -> tuple[str, str]:
    """What the name of its folder tells; reading the METADATA of every distribution would be 20 ms of each start."""
    folder = PurePath(str(getattr(distribution, "_path", "")))
    parts = folder.stem.split("-")
    if folder.suffix == ".dist-info" and len(parts) == 2:
        return parts[0], parts[1]
    return distribution.metadata["Name"] or "", distribution.version
