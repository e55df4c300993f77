"""What a trial does with resources: it opens, and closes, those that the host would open, and no others."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from textwrap import indent

import msgspec
import pytest

from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.trial import trial
from orchestrator.upgrade.trial_protocol import Rehearsal
from repo_store.manifest import Limits, ModuleManifest, TrialSection

HEAD = """
import asyncio, socket
from orchestrator.runtime.module import Module, handles
from orchestrator.runtime.resource import resource

class Gateway(Module[dict]):
    @resource(key=lambda self: self.config["port"])
    async def listener(self):
        return socket.create_server(("127.0.0.1", self.config["port"]))

    @resource
    async def name(self):
        return str(self.listener.getsockname())

"""
NONE = ""
READS_IN_PREPARE = """
async def prepare(self):
    self.place = self.listener.getsockname()

async def self_test(self):
    assert self.place[1] == self.config["port"], "wrong port"
"""
READS_IN_SELF_TEST = """
async def self_test(self):
    try:
        self.listener.getsockname()
    except Exception as error:
        raise RuntimeError("unfit") from error
"""
FAILS_IN_SELF_TEST = """
async def self_test(self):
    raise RuntimeError("unfit")
"""


def key(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def try_it(folder: Path, body: str, port: int, open_keys: dict[str, bytes]) -> set[str]:
    package = folder / "gateway"
    package.mkdir()
    (package / "__init__.py").write_text(HEAD + indent(body, "    "), encoding="utf-8")
    rehearsal = Rehearsal("gateway", "1.1.0", {"port": port}, open_keys=open_keys)
    manifest = ModuleManifest(limits=Limits(load_s=5.0))
    steps = asyncio.run(trial(folder, "gateway", manifest, rehearsal, TrialSection(memory_mb=512, time_s=15)))
    return set(steps.seconds)


@pytest.mark.parametrize("body", [NONE, READS_IN_PREPARE, READS_IN_SELF_TEST])
def test_a_first_start_opens_the_resources_and_closes_them(tmp_path: Path, body: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    assert "self_test" in try_it(tmp_path, body, port, {})
    socket.create_server(("127.0.0.1", port)).close()


def test_one_that_cannot_be_opened_is_found_in_the_trial(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TrialFailed) as failed:
            try_it(tmp_path, NONE, port, {"listener": key(port + 1)})
    assert failed.value.fault == "release"
    text = str(failed.value)
    assert "gateway 1.1.0 failed its trial: @resource: opening 'listener' raised OSError: [Errno 98]" in text
    assert "gateway/__init__.py line 9" in text


@pytest.mark.parametrize("body", [NONE, READS_IN_PREPARE, READS_IN_SELF_TEST])
def test_what_the_version_in_service_has_is_not_opened_again(tmp_path: Path, body: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        steps = try_it(tmp_path, body, port, {"listener": key(port)})
    assert ("self_test" in steps) == (body != READS_IN_PREPARE)  # it needs what prepare() could not make


def test_a_self_test_that_needs_none_of_them_still_counts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TrialFailed, match=r"self_test\(\) raised RuntimeError: unfit"):
        try_it(tmp_path, FAILS_IN_SELF_TEST, port, {"listener": key(port)})
