"""A cheap sign that nobody has touched the tags: some `stat` calls, where 50,000 tags take a tenth of a second to read.

Git changes a loose ref by renaming a file into its folder, and packed ones by replacing packed-refs, so each change shows
in the time of a folder or of that file. Values of the refs do not tell it: a tag that goes back and forth has its old value
each second time, and is in motion all the same.

A file system keeps times by ticks: 1 to 10 ms on Linux. Two changes within one tick leave the same time, so of a stamp that
was taken right after a change it cannot be told whether another one followed. Whoever compares stamps lets more than a tick
go by between them, or asks for one that had `rested`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Row = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the folders of the tags and packed-refs looked like at a moment: path, time of change in ns, inode, size."""

    rows: frozenset[Row]
    taken_s: float

    def rested(self, seconds: float) -> bool:
        """Whether the last change was so long before it was taken; False, too, if the clock was set back since."""
        return self.taken_s - max(changed for _, changed, _, _ in self.rows) / 1e9 > seconds


def refs_stamp(path: Path) -> Stamp:
    """Give the stamp of the tags of the bare repository at `path`. What cannot be read counts as absent."""
    taken_s = time.time()
    return Stamp(frozenset([*_folders(path / "refs" / "tags"), _row(path / "packed-refs")]), taken_s)


def is_unmoved(stamp: Stamp) -> bool:
    """Whether nothing has touched the tags since it was taken. A new folder shows in the one it lies in."""
    return all(_row(Path(row[0])) == row for row in stamp.rows)


def _folders(path: Path) -> Iterator[Row]:
    yield _row(
        path
    )  # before it is read: a folder that comes in between is missed by the stamp, and differs from it
    try:
        with os.scandir(path) as found:
            below = [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for each in below:
        yield from _folders(Path(each))


def _row(path: Path) -> Row:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), found.st_mtime_ns, found.st_ino, found.st_size
