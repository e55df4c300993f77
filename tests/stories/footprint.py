"""What a running host holds: memory, descriptors, threads, staged releases, bytes of the journal."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.stories.deployment import Deployment


@dataclass(frozen=True)
class Footprint:
    """What a host holds at one moment."""

    resident_bytes: int
    descriptors: int
    threads: int
    staged: int
    journal_bytes: int

    @classmethod
    def of(cls, deployment: Deployment) -> Footprint:
        assert deployment.host is not None
        process = Path(f"/proc/{deployment.host.pid}")
        lines = (line.split() for line in (process / "status").read_text().splitlines())
        facts = {words[0]: int(words[1]) for words in lines if words[0] in {"VmRSS:", "Threads:"}}
        return cls(
            1024 * facts["VmRSS:"],
            len([*(process / "fd").iterdir()]),
            facts["Threads:"],
            len([*deployment.place.stage.iterdir()]),
            sum(path.stat().st_size for path in deployment.path.glob("journal.db*")),
        )

    def __str__(self) -> str:
        return (
            f"{self.resident_bytes / 1e6:.1f} MB resident, {self.descriptors} descriptors, {self.threads} threads, "
            f"{self.staged} staged releases, journal {self.journal_bytes / 1e3:.0f} kB"
        )


def is_keeper(pid: int) -> bool:
    """Whether a process is one that describes and tries out releases, or what such a one has forked."""
    with suppress(OSError):
        return b"trial_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
