"""What another user of the machine can see and do, as that user: a child of this process that has given root away."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hooks import permission, pre_receive, release_check
from orchestrator.control.client import call
from tests.security.keys import write_policy
from tests.stories.deployment import Deployment, deployed

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
CODE = """
    from livetag import Module, handles

    class Counter(Module[dict]):
        def initial_state(self):
            return {"total": 0}

        @handles
        def tick(self) -> int:
            return 1
"""


def as_nobody(work: Callable[[], object]) -> Any:  # Any: JSON
    """What `work` gives when another user does it; its own exceptions as {"error": text}."""
    sysconfig.get_config_vars()  # read late otherwise
    assert permission
    assert release_check  # imported before: the other user may not be able to read the source
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                found: object = work()
            except Exception as error:  # noqa: BLE001  # it is the answer
                found = {"error": f"{type(error).__name__}: {error}"}
            os.write(writing, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    return json.loads(data)


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    """A running deployment that a group may control, in a place that others can reach."""
    folder = Path(tempfile.mkdtemp(prefix="livetag-shared-", dir="/tmp"))  # pytest's own is private
    folder.chmod(0o755)
    try:
        with deployed(folder, start=False) as deployment:
            config = '[control]\ngroup = "nogroup"\n[policy]\nallow = ["os:root", "ssh:alice@example.org"]\n'
            write_policy(deployment.path, {"livetag.toml": config})
            deployment.start()
            deployment.deploy("counter/v1.0.0", counter=CODE)
            yield deployment
    finally:
        shutil.rmtree(folder)


def test_a_deployment_is_closed_to_other_users(shared: Deployment) -> None:
    assert shared.path.stat().st_mode & 0o077 == 0
    assert "PermissionError" in as_nobody(lambda: sorted(shared.path.iterdir()))["error"]
    assert "HostForbidden" in as_nobody(lambda: call(shared.place.socket, "ping"))["error"]


def test_each_part_of_it_is_closed_by_itself_too(shared: Deployment) -> None:
    """Whoever opens the folder, for a group to push, has not opened the rest with it."""
    shared.path.chmod(0o711)
    try:
        names = sorted(
            path.name for path in shared.path.iterdir() if path.name not in {"store.git", "control.sock"}
        )
        assert {"journal.db", "stage", "logs", "livetag.toml", "host.lock", "running.mark"} <= set(names)

        def opened() -> list[str]:
            found = []
            for name in names:
                try:
                    os.close(os.open(shared.path / name, os.O_RDONLY))
                    found.append(name)
                except PermissionError:
                    pass
            return found

        assert as_nobody(opened) == []
    finally:
        shared.path.chmod(0o700)


def test_a_member_of_the_control_group_is_who_the_kernel_says_and_bound_by_the_list(
    shared: Deployment,
) -> None:
    shared.path.chmod(0o711)
    try:
        assert "pid" in as_nobody(lambda: call(shared.place.socket, "ping"))
        for op in ("deploy", "retry"):
            said = as_nobody(partial(call, shared.place.socket, op, tag="counter/v1.0.0"))
            assert "os:nobody may not release counter here" in said["error"], said
        shared.write("counter", CODE + "    # more\n")
        commit_id = shared.release("counter/v1.1.0")
        shared.call("hold", name="counter", who="ada", reason="freeze")
        shared.git("fetch", "-q", str(shared.work.path), "+refs/tags/*:refs/theirs/*")
        shared.git("update-ref", "refs/tags/counter/v1.1.0", commit_id)
        changes = [{"ref": "refs/tags/counter/v1.1.0", "old": None, "new": commit_id}]
        for claim in ("os:root", "ssh:alice@example.org"):
            as_nobody(
                partial(call, shared.place.socket, "push", changes=changes, options=["no-wait"], who=claim)
            )
        shared.call("unhold", name="counter", who="ada", reason="over")
        shared.call("deploy", tag="counter/v1.1.0")
        assert shared.history()[0]["who"] == "nobody"
        said = as_nobody(partial(call, shared.place.socket, "rollback", module="counter", reason="so"))
        assert "os:nobody may not release counter here" in said["error"], said
        assert shared.version() == "1.1.0"
    finally:
        shared.path.chmod(0o700)


def test_a_push_by_another_user_is_judged_by_who_he_is_and_not_by_what_his_environment_says(
    shared: Deployment,
) -> None:
    config = shared.path / "livetag.toml"
    shared.path.chmod(0o711)
    config.chmod(0o644)  # whoever pushes reads the policy
    tag = shared.git("rev-parse", "refs/tags/counter/v1.0.0")

    def push() -> str:
        for claim in ({}, {"LIVETAG_PRINCIPAL": "alice@example.org"}, {"REMOTE_USER": "root"}):
            command = f"{'0' * 40} {tag} refs/tags/counter/v3.0.0\n".encode()
            environ = {"GIT_DIR": str(shared.place.store), **claim}
            if pre_receive.main(io.BytesIO(command), environ) != 1:
                return f"accepted with {claim}"
        said.seek(0)
        return said.read()

    with tempfile.TemporaryFile("w+") as said:

        def quietly() -> str:
            sys.stderr = said
            return push()

        try:
            text = as_nobody(quietly)
        finally:
            shared.path.chmod(0o700)
            config.chmod(0o600)
    assert isinstance(text, str), text
    assert text.count("os:nobody may not release counter here") == 3, text


def test_who_pushes_and_cannot_read_the_policy_is_refused_and_told_what_to_do(shared: Deployment) -> None:
    shared.path.chmod(0o711)
    try:
        command = f"{'0' * 40} {'1' * 40} refs/heads/main\n".encode()
        code = as_nobody(lambda: pre_receive.main(io.BytesIO(command), {"GIT_DIR": str(shared.place.store)}))
    finally:
        shared.path.chmod(0o700)
    assert code == 1


def test_a_socket_that_is_not_his_takes_no_connection(shared: Deployment) -> None:
    def connect() -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(shared.place.socket))
        return "connected"

    assert "PermissionError" in as_nobody(connect)["error"]
