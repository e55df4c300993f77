"""What this process offers to `[requires]` of a release: its Python and its distributions."""

import sys
from importlib import metadata

from packaging.utils import canonicalize_name

from orchestrator.upgrade.checks import Environment


def host_environment() -> Environment:
    """Read once, as the process has it."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(canonicalize_name(name), distribution.version)
    return Environment(".".join(map(str, sys.version_info[:3])), found)
