"""The one Git door: every Git command of this side starts here, and nothing of the pushed side runs.

A hook inherits GIT_DIR and GIT_QUARANTINE_PATH, a service its user's configuration, a repository its own:
none of it may steer what we read. So Git is started with an environment of our own, without hooks, replace
refs, grafts, system and user configuration, and always with the path of its repository. Source: DESIGN §8
(GitPython).
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from repo_store.batch import Batch
from repo_store.errors import GitFailed
from repo_store.starting import Start, directly

if TYPE_CHECKING:  # a tenth of what the hook imports that a pusher waits for
    from typing_extensions import Self

RUN_TIMEOUT_S = 60.0
STDERR_SHOWN = 2000

# What a pre-receive hook needs to see the objects of a push that is not accepted yet; nothing else is let
# through.
QUARANTINE_NAMES = frozenset(
    {"GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH"}
)

# No HOME: an older Git knows no GIT_CONFIG_GLOBAL and would read the user's file.
_KEPT = ("PATH", "TMPDIR")
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_COMMITTER_NAME": "livetag",
    "GIT_COMMITTER_EMAIL": "livetag@localhost",
}
# The repository's own config cannot be switched off, so each key of it that can start a program is overruled.
_OVERRIDES = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.alternateRefsCommand=true",
    "core.pager=cat",
    "core.askPass=false",
    "core.sshCommand=false",
    "credential.helper=",
    "log.showSignature=false",
    "gpg.program=false",
    "gpg.ssh.program=false",
    "protocol.allow=never",
    "gc.auto=0",
    "core.fsync=committed",
    "maintenance.auto=false",
    "core.filesRefLockTimeout=2000",
    "core.packedRefsTimeout=2000",
    "advice.graftFileDeprecated=false",
)


class GitDoor:
    """Git on one repository, by full path. A context manager; use one door for one thread.

    Residents are silently wrong under threads (DESIGN §8), so a lock stands before each call: a second thread
    waits instead of reading another's answer. `quarantine` takes the variables a pre-receive hook was given
    (others in it are ignored), so that objects of a push under way can be read. `start`: see repo_store.starting.
    """

    def __init__(
        self, path: Path, quarantine: Mapping[str, str] | None = None, start: Start = directly
    ) -> None:
        self.path = Path(path).absolute()
        self._start_process = start
        passed = {name: value for name, value in (quarantine or {}).items() if name in QUARANTINE_NAMES}
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self._environment = {**kept, **_ENVIRONMENT, **passed}
        self._lock = threading.Lock()
        self._contents = Batch(lambda: self._start(["cat-file", "--batch"]))
        self._headers = Batch(lambda: self._start(["cat-file", "--batch-check"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the resident processes. The door may be used again; it then starts new ones."""
        with self._lock:
            self._contents.close()
            self._headers.close()

    def run(self, *args: str, stdin: bytes = b"", timeout_s: float = RUN_TIMEOUT_S) -> bytes:
        """Run one Git command and give its whole output; raises GitFailed with the end of what it said.

        No argument may be text of a user's where Git could take it for an option: full ref names and full
        ids, behind `--end-of-options`.
        """
        return self.run_heard(*args, stdin=stdin, timeout_s=timeout_s)[0]

    def run_heard(
        self, *args: str, stdin: bytes = b"", timeout_s: float = RUN_TIMEOUT_S
    ) -> tuple[bytes, str]:
        """As `run`, with what a Git that succeeded warned of."""
        with self._lock:
            process = self._start(args)
            try:
                output, problem = process.communicate(stdin, timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                process.kill()
                process.communicate()
                raise GitFailed(
                    f"git {_shown(args)} did not end within {timeout_s:g} s and was killed."
                ) from error
        warned = problem.decode("utf-8", "replace").strip()
        if process.returncode != 0:
            said = f"{output.decode('utf-8', 'replace')}\n{warned}".strip()[-STDERR_SHOWN:]
            raise GitFailed(
                f"git {_shown(args)} failed with exit code {process.returncode}: {said or 'no message'}"
            )
        return output, warned

    def cat(self, object_id: str) -> tuple[str, bytes]:
        """Give (type, content) of an object; raises GitFailed if it is missing.

        Ask `infos` for its size first.
        """
        with self._lock:
            return self._contents.content(object_id)

    def cat_all(self, object_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Give (type, content) of each object in one question, as `cat` does."""
        with self._lock:
            return self._contents.contents(object_ids)

    def infos(self, object_ids: Sequence[str]) -> list[tuple[str, int] | None]:
        """Give (type, size in bytes) of each object, None for a missing one, without reading any content."""
        with self._lock:
            return self._headers.headers(object_ids)

    def _start(self, args: Sequence[str]) -> subprocess.Popen[bytes]:
        if not self.path.is_dir():  # else it would be Git that is said to be missing
            raise GitFailed(f"there is no repository at {self.path}; put it back, from a copy if need be")
        overrides = [part for pair in _OVERRIDES for part in ("-c", pair)]
        command = ["git", f"--git-dir={self.path}", *overrides, *args]
        try:
            return self._start_process(command, self._environment, self.path)
        except OSError as error:
            raise GitFailed(f"git could not be started in {self.path}: {error}") from error


def _shown(args: Sequence[str]) -> str:
    return " ".join(args)[:200]
