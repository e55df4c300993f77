"""One resident `git cat-file` process: ask it for ids, read its answers, with a deadline on each wait."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from repo_store.errors import GitFailed

ANSWER_TIMEOUT_S = 30.0
# 256 questions of at most 65 bytes and their answers fit a pipe of 64 KiB each, so neither side blocks the
# other.
QUESTIONS_AT_ONCE = 256
_READ_BYTES = 1 << 16


class Batch:
    """A `cat-file --batch` or `--batch-check` that is started at the first question and again after it died.

    Not for two threads at once; the door holds a lock.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()

    def content(self, object_id: str) -> tuple[str, bytes]:
        """Give (type, content) of one object; for a `--batch` process. Raises GitFailed if it is missing."""
        return self.contents([object_id])[0]

    def contents(self, object_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Give (type, content) of each object, asked for at once; for a `--batch` process. Raises GitFailed as `content`."""
        found: list[tuple[str, bytes]] = []
        for first in range(0, len(object_ids), QUESTIONS_AT_ONCE):
            some = object_ids[first : first + QUESTIONS_AT_ONCE]
            missing = None
            with self._asked(some) as process:
                for each in some:
                    header = _header(self._line(process))
                    if header is None:
                        missing = missing or each
                    else:
                        found.append((header[0], self._exactly(process, header[1] + 1)[:-1]))
            if missing is not None:
                raise GitFailed(f"object {missing} is missing in the repository; run `git fsck` on it.")
        return found

    def headers(self, object_ids: Sequence[str]) -> list[tuple[str, int] | None]:
        """Give (type, size) of each object, None for a missing one; for a `--batch-check` process."""
        found: list[tuple[str, int] | None] = []
        for first in range(0, len(object_ids), QUESTIONS_AT_ONCE):
            some = object_ids[first : first + QUESTIONS_AT_ONCE]
            with self._asked(some) as process:
                found += [_header(self._line(process)) for _ in some]
        return found

    def close(self) -> None:
        """End the process and close its pipes. Does nothing when none runs."""
        process, self._process = self._process, None
        self._buffer.clear()
        if process is None:
            return
        process.kill()  # it only reads, so there is nothing that it could leave half done
        with contextlib.suppress(OSError, ValueError):
            process.communicate()
        process.wait()

    @contextlib.contextmanager
    def _asked(self, object_ids: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        if not all(object_id.isalnum() for object_id in object_ids):
            raise GitFailed(f"not object ids: {', '.join(map(repr, object_ids))[:200]}")
        process = self._process = self._process or self._start()
        try:
            os.write(_pipe(process.stdin).fileno(), "".join(f"{each}\n" for each in object_ids).encode())
            yield process
        except BaseException as error:
            # Half an answer may stand in the pipe: the next question must not read it as its own.
            self.close()
            if isinstance(error, OSError):
                raise GitFailed(f"git cat-file died: {error}") from error
            raise

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._fill(process)
        return self._exactly(process, end + 1)[:-1]

    def _exactly(self, process: subprocess.Popen[bytes], size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill(process)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fill(self, process: subprocess.Popen[bytes]) -> None:
        out = _pipe(process.stdout).fileno()
        poll = select.poll()  # select() itself ends at descriptor 1023, and a host may well have more
        poll.register(out, select.POLLIN)
        if not poll.poll(ANSWER_TIMEOUT_S * 1000):
            raise GitFailed(f"git cat-file gave no answer within {ANSWER_TIMEOUT_S:g} s and was ended.")
        data = os.read(out, _READ_BYTES)
        if not data:
            said = _pipe(process.stderr).read().decode("utf-8", "replace").strip()
            raise GitFailed(f"git cat-file ended early: {said[-500:] or 'no message'}")
        self._buffer += data


def _header(line: bytes) -> tuple[str, int] | None:
    words = line.decode("utf-8", "replace").split(" ")
    if len(words) == 3 and words[2].isdigit():
        return words[1], int(words[2])
    return None  # "<id> missing", and "<id> ambiguous" for what was no full id


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise GitFailed("git cat-file was started without its pipes.")
    return pipe
