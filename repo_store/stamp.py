"""A cheap sign that no tag can have changed, so that an idle host does not read 50,000 of them every few seconds."""

from __future__ import annotations

import os
import time
from pathlib import Path

# Within one tick of the clock two changes leave the same time; a folder that rested this long is past that.
RESTED_S = 1.0

Stamp = frozenset[tuple[str, int, int, int]]


def refs_stamp(path: Path) -> Stamp | None:
    """Give a value that differs after any change Git makes to the tags of the bare repository at `path`.

    Git changes a loose ref by renaming a file into its folder, and packed ones by replacing packed-refs; both show
    in a `stat`. None: it cannot be told, because something changed just now or could not be read.
    """
    try:
        seen = [_row(Path(folder)) for folder, _, _ in os.walk(path / "refs" / "tags")]
        if (path / "packed-refs").exists():
            seen.append(_row(path / "packed-refs"))
    except OSError:
        return None
    newest_s = max((changed for _, changed, _, _ in seen), default=0) / 1e9
    return frozenset(seen) if seen and time.time() - newest_s > RESTED_S else None


def _row(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    return str(path), found.st_mtime_ns, found.st_ino, found.st_size
