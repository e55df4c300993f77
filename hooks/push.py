"""What one push brings, and where: the words that the three hooks share."""

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator.control.printable import printable
from repo_store.identity import PRINCIPAL_VARIABLE

TAGS = "refs/tags/"
WAIT_CONFIRMED = "wait=confirmed"
NO_WAIT = "no-wait"
PLAN = "plan"
OPTIONS = (WAIT_CONFIRMED, NO_WAIT, PLAN)


class NotRunByGit(Exception):
    """A hook was started without the environment that Git gives it."""


@dataclass(frozen=True, slots=True)
class Command:
    """One ref of a push. `old` None: the ref is new; `new` None: it is deleted."""

    old: str | None
    new: str | None
    ref: str

    @classmethod
    def parse(cls, line: bytes) -> "Command":
        """Read `<old> <new> <ref>`; zeros stand for no object. Raises ValueError."""
        old, new, ref = line.decode("utf-8", "surrogateescape").split(" ", 2)
        return cls(_object_id(old), _object_id(new), ref)

    @property
    def tag_name(self) -> str:
        return self.ref.removeprefix(TAGS)

    @property
    def is_tag(self) -> bool:
        return self.ref.startswith(TAGS)


@dataclass(frozen=True, slots=True)
class Place:
    """Where this push arrives."""

    store: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Place":
        """Read GIT_DIR, relative to where Git started the hook. Raises NotRunByGit."""
        if "GIT_DIR" not in environ:
            raise NotRunByGit("GIT_DIR is not set; this hook is run by git receive-pack")
        return cls(Path(environ["GIT_DIR"]).resolve())

    @property
    def socket(self) -> Path:
        return self.store.parent / "control.sock"


def read_commands(stream: BinaryIO) -> list[Command]:
    """Return what pre-receive and post-receive are given on standard input."""
    return [Command.parse(line.rstrip(b"\n")) for line in stream if line.strip()]


def options_in(environ: Mapping[str, str]) -> list[str]:
    """Return the push options as pre-receive and post-receive are given them."""
    count = environ.get("GIT_PUSH_OPTION_COUNT", "0")
    return [environ.get(f"GIT_PUSH_OPTION_{n}", "") for n in range(int(count) if count.isdigit() else 0)]


def options_problem(options: Sequence[str]) -> str | None:
    """Say why these push options cannot be obeyed, or None. A misspelt `plan` must not deploy."""
    for option in options:
        if option not in OPTIONS:
            return f"unknown push option {option!r}; there are: {', '.join(OPTIONS)}. Say `git push -o plan ...`."
    if len(set(options)) > 1:
        return f"push options {' and '.join(sorted(set(options)))} exclude each other; give one."
    return None


def pusher(environ: Mapping[str, str]) -> str:
    """Return for whom this push is told to be: `ssh:` of `livetag shell`, `http:` of a web server, else the OS user.

    Whoever starts a hook chooses its environment, so this is a claim: it is believed of those who may speak for others
    (`repo_store.identity`), and the host knows by the kernel who tells it.
    """
    # Of whatever bytes: what is no UTF-8 could not be sent to the host, and the push would not be judged at all.
    if environ.get(PRINCIPAL_VARIABLE):
        return printable(f"ssh:{environ[PRINCIPAL_VARIABLE]}")
    if environ.get("REMOTE_USER"):
        return printable(f"http:{environ['REMOTE_USER']}")
    import pwd

    try:
        return f"os:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"os:uid-{os.getuid()}"


def says_policy(config: bytes) -> bool:
    """Whether a livetag.toml may say more than the default policy: else a push need not wait for it to be understood."""
    lines = [line.strip() for line in config.split(b"\n")]
    said = [line for line in lines if line and not line.startswith(b"#")]
    return any(
        b"policy" in line and (line != b"[policy]" or not following.startswith(b"["))
        for line, following in zip(said, [*said, b"["][1:], strict=True)
    )


def say(text: str) -> None:
    """Show a text to the pusher, as `remote:` lines; one who has hung up is no reason to fail."""
    lines: Iterable[str] = text.rstrip("\n").split("\n")
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
        sys.stderr.flush()


def _object_id(text: str) -> str | None:
    return text if text.strip("0") else None
