"""The one door to ssh-keygen, which checks signatures. What it says is decided by its exit code, never by its words.

The verification time is now. The tagger's date is written by whoever signs: somebody with a key that has expired, or
was revoked by a date, would only have to date the tag back.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence

from repo_store.errors import StoreError

TIMEOUT_S = 20.0
NAMESPACE = "git"  # what git signs tags and commits in: a signature made for anything else does not count
PRINCIPALS_MAX = 64


def principals(signature: bytes, signers: bytes) -> list[str]:
    """Give the principals that `signers` (an allowed_signers file) names for the signature's key, now; they say nothing yet.

    Empty if it names none. Raises StoreError if ssh-keygen cannot be run.
    """
    with _file(signers) as allowed, _file(signature) as signed:
        done = _run(["-Y", "find-principals", "-f", allowed, "-s", signed], [allowed, signed])
    if done.returncode != 0:
        return []
    names = done.stdout.decode("utf-8", "replace").replace(",", "\n").split("\n")
    return [name for name in dict.fromkeys(names) if name and not name.startswith("!")][:PRINCIPALS_MAX]


def verifies(payload: bytes, signature: bytes, principal: str, signers: bytes, revoked: bytes | None) -> bool:
    """Whether the signature is of this payload, by a key that is the principal's now and not revoked."""
    with contextlib.ExitStack() as files:
        allowed, signed = files.enter_context(_file(signers)), files.enter_context(_file(signature))
        command = ["-Y", "verify", "-n", NAMESPACE, "-f", allowed, "-I", principal, "-s", signed]
        used = [allowed, signed]
        if revoked is not None:
            used.append(files.enter_context(_file(revoked)))
            command += ["-r", used[-1]]
        return _run(command, used, payload).returncode == 0


def _run(
    arguments: Sequence[str], files: Sequence[str], stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *arguments],
            input=stdin,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            pass_fds=[int(name.rpartition("/")[2]) for name in files],
        )
    except FileNotFoundError as error:
        raise StoreError(
            "ssh-keygen is not installed; the strict policy checks signatures with it."
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreError(f"ssh-keygen could not check a signature: {error}") from error


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[str]:
    """Yield a path that has this content: in memory, so that nobody can put another file there meanwhile."""
    descriptor = os.memfd_create("livetag", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
