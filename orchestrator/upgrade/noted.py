"""What the ledger remembers of a commit that failed, and of where a tag was last seen. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IN_PROBATION: Final = "livetag, in probation"  # who puts back what breached one
AFTER_DEATHS: Final = "livetag, after deaths of the host"  # who puts back, at a start, what ended it


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a commit is not tried again on its own, and since when."""

    package: str
    commit_id: str
    tag: str
    reason: str
    at: float
    seq: int
    fatal: bool = False  # it ends the host: it is not loaded, even where it is in the table
    paste: str = ""  # source that would mend it


@dataclass(frozen=True, slots=True)
class TagPin:
    """Where a tag pointed when it was last seen."""

    object_id: str
    commit_id: str | None
