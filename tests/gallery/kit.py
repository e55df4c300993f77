"""What a folder of the gallery says: a release as its author would push it, and what must come of it.

A folder holds the files that the release changes of `_good`, in their places, and expect.toml (see Case). What no
repository of ours could hold, a submodule or five thousand files, is made by a function of makers.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec
import tomli

from tests.gallery.makers import MAKERS
from tests.git_fixtures import GitRepo

HERE = Path(__file__).parent
GOOD = HERE / "_good"
GOOD_TAGS = ("clock/v1.0.0", "counter/v1.0.0", "till/v1.0.0")

At = Literal["nothing", "push", "plan", "trial", "prepare", "shadow", "switch", "service"]
TOLD: dict[At, str] = {  # what a push has said once it has come so far
    "plan": "rolled back: ",
    "trial": "planned: ",
    "prepare": "tried out in a child process: passed",
    "shadow": ": shadowing ",
    "switch": "prepared: loaded beside the versions in service",
    "service": ": breach: ",
}


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must come of a release. `says`: words of what its push prints.

    `refused`: the push fails, and its tags are not there. `waits`: it goes live by itself later, and is there till then.
    `ignored`: it is there, and nothing is made of it. `tried again`: the first try is undone, and what may be of the moment
    is tried again later. `reverted`: it goes live, and back. `at` is the step that it comes to; `plan` is all that is done
    before it is planned, where a child process imports it. `make` is a function of makers.py, `livetag` the host's
    livetag.toml.
    """

    heading: str
    says: tuple[str, ...]
    at: At
    outcome: Literal["refused", "waits", "ignored", "tried again", "reverted"] = "refused"
    tags: tuple[str, ...] = ("counter/v1.1.0",)
    make: str = ""
    livetag: str = ""
    folder: Path = HERE

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def fails(self) -> bool:
        """Whether its push fails, and takes its tags back."""
        return self.outcome in {"refused", "reverted"}

    @property
    def quarantined(self) -> bool:
        return self.fails and self.at != "push"

    @property
    def options(self) -> list[str]:
        """How it is pushed: what is tried again is not waited for, what goes live is until its probation is over."""
        return {"tried again": ["-o", "no-wait"], "reverted": ["-o", "wait=confirmed"]}.get(self.outcome, [])

    def write(self, work: GitRepo) -> None:
        """Write the release into a clone of the good one, and stage it for a commit."""
        for path in files_of(self.folder):
            work.write(path.relative_to(self.folder).as_posix(), path.read_bytes())
        work.git("add", "--all", "--force")
        if self.make:
            MAKERS[self.make](work)


def files_of(folder: Path) -> list[Path]:
    """The files of a release."""
    return [
        Path(top) / name
        for top, _, names in os.walk(folder / "modules")
        for name in sorted(names)
        if not top.endswith("__pycache__")
    ] + [path for path in [folder / "app.toml"] if path.exists()]


def cases() -> list[Case]:
    """All folders, by name."""
    return [read(path.parent) for path in sorted(HERE.glob("*/expect.toml"))]


def read(folder: Path) -> Case:
    """The case of a folder. Raises ValidationError."""
    found = tomli.loads((folder / "expect.toml").read_text(encoding="utf-8"))
    return msgspec.convert({**found, "folder": folder}, Case)
