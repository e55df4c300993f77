"""Replays an MRT file, record by record, at a chosen rate; a swap or a restart goes on where it stands."""

from __future__ import annotations

import asyncio
import time
from typing import Any, BinaryIO, TypedDict

from livetag import Module, handles, intake

from .framing import next_record, open_feed


class State(TypedDict):
    feed: str
    offset: int  # unpacked bytes of the file that went to the decoder; the next record starts here
    records: int
    ended: bool


class Source(Module[State]):
    """config: `feed`, and `rate` in records per second (0: as fast as the decoder takes them)."""

    def initial_state(self) -> State:
        return {"feed": "", "offset": 0, "records": 0, "ended": False}

    async def prepare(self) -> None:
        self.path = str(self.config["feed"])
        self.rate = float(self.config.get("rate", 0))
        self.file: BinaryIO | None = None
        self.former: BinaryIO | None = None  # of the version before, which read another file
        self.serving = False
        self.at_end = False
        self.due_s = 0.0
        open_feed(self.path).close()  # vote no now, rather than fail later

    def hand_over(self) -> dict[str, Any]:
        file, self.file = self.file, None
        return {"path": self.path, "file": file}

    def take_over(self, resources: dict[str, Any]) -> None:
        if resources.get("path") == self.path:
            self.file = resources["file"]
        else:
            self.former = resources.get("file")

    async def stop(self) -> None:
        if self.file is not None and self.serving:  # a version that was undone leaves the file to the other
            self.file.close()

    @intake
    async def read(self) -> dict[str, Any]:
        """Read one record. Nothing is awaited after the reading, so a swap cannot lose what was read."""
        self.serving = True
        if self.at_end:
            await asyncio.get_running_loop().create_future()  # a swap or a stop ends this wait
        if self.rate:
            await self._pace()
        if self.former is not None:
            self.former.close()
            self.former = None
        if self.file is None:
            self.file = open_feed(self.path)
        at = self.file.tell()
        record = next_record(self.file)
        self.at_end = not record
        return {"feed": self.path, "at": at, "record": record}

    @handles("read")
    def on_read(self, feed: str, at: int, record: bytes) -> None:
        """Pass the record on, once: after a restart the file is read from its start, and the state knows better."""
        if feed != self.state["feed"]:
            self.state.update({"feed": feed, "offset": 0, "records": 0, "ended": False})
        if at != self.state["offset"]:
            self._seek(at)
        elif record:
            self.send("decoder", "record", {"at": at, "record": record})
            self.state["offset"] += len(record)
            self.state["records"] += 1
        else:
            self.state["ended"] = True

    def _seek(self, at: int) -> None:
        """Lead the file to where the state stands; what was read from elsewhere and still arrives is dropped."""
        offset = self.state["offset"]
        if self.file is not None and (at > offset or self.file.tell() < offset):
            self.file.seek(offset)

    async def _pace(self) -> None:
        """Wait until the next record is due; a source that was held up catches up by a tenth of a second at most."""
        now = time.monotonic()
        self.due_s = max(self.due_s + 1 / self.rate, now - 0.1)
        if self.due_s > now:
            await asyncio.sleep(self.due_s - now)
