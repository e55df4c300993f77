"""The golden run, as a process of its own: `python golden.py DEPLOYMENT CLONE LOG REF...`.

Host, push of all refs, rollback, clean stop, start, power cut. It goes on whatever dies in it, as people and service
managers do, and leaves no process behind.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

STEP_S = 40.0


def main(deployment: Path, clone: Path, log: Path, refs: list[str]) -> None:
    host = start(deployment, log)
    try:
        do(["git", "push", "live", *refs], clone)
        do(
            [sys.executable, "-m", "livetag", "rollback", "--dir", str(deployment), "--reason", "golden"],
            clone,
        )
        host.send_signal(signal.SIGTERM)
        host.wait(STEP_S)
        host = start(deployment, log)
    finally:
        host.kill()
        host.wait()


def do(command: list[str], folder: Path) -> None:
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, check=False, timeout=STEP_S)


def start(deployment: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a host; returns once it has said that it serves, or has died."""
    before = log.read_bytes() if log.exists() else b""
    with log.open("ab") as out:
        command = [sys.executable, "-m", "livetag", "run", str(deployment)]
        host = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    deadline = time.monotonic() + STEP_S
    while host.poll() is None and time.monotonic() < deadline:
        if b" serves " in log.read_bytes()[len(before) :]:
            break
        time.sleep(0.01)
    return host


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
