"""What can go wrong in an upgrade, split by whose fault it is.

Every message says what failed, what is true now, and what to do next.
"""

from typing import Literal

Fault = Literal["release", "moment", "died"]
"""Whose fault it is: the release's (quarantine), the moment's (tried again), or a death of the host."""


class UpgradeError(Exception):
    """Any expected failure of an upgrade; the versions in service before it are in service after it."""


class VoteRefused(UpgradeError):
    """A participant voted no while the old version was serving."""


class Overtaken(UpgradeError):
    """The plan no longer holds, as somebody has said something meanwhile: nothing was begun, it is made anew."""


class QuiesceTimeout(UpgradeError):
    """A unit of work was still under way when the drain's deadline passed."""


class PauseExceeded(UpgradeError):
    """The switch was ready too late for its pause budget and was undone."""


class TrialFailed(UpgradeError):
    """The release failed in its child process; nothing of it was loaded into the host.

    `step` is what the child was doing ("import", "prepare", ...), `fault` whose failure it is: "moment" when
    the child could not be run at all, which is no verdict on the release.
    """

    def __init__(self, step: str, message: str, fault: Fault = "release") -> None:
        super().__init__(message)
        self.step = step
        self.message = message
        self.fault: Fault = fault


class ShadowFailed(UpgradeError):
    """The release was not shown to do what the one in service does; nobody has heard of what it did.

    `mismatches` are the messages that they handled differently, each with a small diff. `fault` "moment": there was not
    enough to be seen, which is no verdict on the release, and no pass.
    """

    def __init__(self, message: str, fault: Fault = "release", mismatches: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fault: Fault = fault
        self.mismatches = mismatches


class JournalCorrupt(UpgradeError):
    """The journal on disk is not what was written; `seq` is the first record that cannot be trusted."""

    def __init__(self, message: str, seq: int | None = None) -> None:
        super().__init__(message)
        self.seq = seq


class JournalFailed(UpgradeError):
    """A write did not reach the disk, or the journal is closed: nothing is taken until the next start."""


class IllegalTransition(Exception):
    """Misuse, not an expected failure: a signal or a record that does not fit the phase before it."""
