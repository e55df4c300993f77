"""Where a selftest ran: what a reader of its report must know to believe or repeat it."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")


def machine(scratch: Path) -> dict[str, str]:
    """Name → text: versions, processors, and the file system that the scratch deployment was on."""
    return {
        "livetag": _version(),
        "Python": platform.python_version(),
        "Git": _git(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": str(os.cpu_count() or "unknown"),
        "file system": file_system(scratch.resolve()),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _version() -> str:
    try:
        return metadata.version("livetag")
    except metadata.PackageNotFoundError:
        return "not installed, run from its source"


def _git() -> str:
    done = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False, timeout=10)
    return done.stdout.removeprefix("git version ").strip() or "unknown"


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, and where it is mounted: `ext4 on /`."""
    try:
        rows = [line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    mounts = [(Path(row[1].replace("\\040", " ")), row[2]) for row in rows if len(row) > 2]
    found = [mount for mount in mounts if path.is_relative_to(mount[0])]
    if not found:
        return "unknown"
    where, kind = max(found, key=lambda mount: len(mount[0].parts))
    return f"{kind} on {where}"
