"""The one door to a user's own clone: their Git, their configuration, their identity.

`repo_store.git` is the door to the store and trusts no configuration; here the clone is the user's and so
is the configuration. Only the variables that would point Git at another repository are dropped.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# `git rev-parse --local-env-vars`, and what a hook hands down: with one of these set, `git -C` is not obeyed.
REDIRECTIONS = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
TIMEOUT_S = 30.0


class CloneFailed(Exception):
    """Git refused something in a user's clone; the message is Git's own."""


@dataclass(frozen=True, slots=True)
class Clone:
    """A work tree at `path`, run with the environment `env`."""

    path: Path
    env: Mapping[str, str]

    def run(self, *args: str) -> str:
        """Run `git ARGS` in the clone and return what it printed, without the last line end.

        Raises CloneFailed with Git's own words, also when git is missing or takes more than 30 s.
        """
        env = {name: value for name, value in self.env.items() if name not in REDIRECTIONS}
        env["GIT_TERMINAL_PROMPT"] = "0"
        try:
            done = subprocess.run(
                ["git", "-C", os.fspath(self.path), *args],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise CloneFailed("git is not installed, or not on the PATH") from error
        except subprocess.TimeoutExpired as error:
            raise CloneFailed(f"git {args[0]} did not end within {TIMEOUT_S:g} s") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise CloneFailed(said or f"git {args[0]} ended with exit code {done.returncode}")
        return done.stdout.decode(errors="surrogateescape").rstrip("\n")

    def setting(self, name: str) -> str | None:
        """Return the value that Git's configuration gives `name` here, or None; a path is expanded.

        Also None outside any clone, and where there is no git: neither is an error when one only asks.
        """
        try:
            return self.run("config", "--type=path", "--get", name) or None
        except CloneFailed:
            return None
