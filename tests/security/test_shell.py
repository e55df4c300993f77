"""`livetag shell`: what sshd gives a forced command, and the real sshd where there is one that may be started."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.control.config import Deployment as Place
from orchestrator.control.shell import Git, Look, ShellRefused, decide
from tests.git_fixtures import clean_environment
from tests.security.keys import Person, write_policy
from tests.stories.deployment import deployed, wait_until

PLACE = Place(Path("/srv/live"))
SSHD = os.environ.get("LIVETAG_SSHD") or shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


def asked(command: str, **environ: str) -> Git | Look:
    return decide("bob@example.org", PLACE, {"SSH_ORIGINAL_COMMAND": command, "PATH": "/bin", **environ})


@pytest.mark.parametrize(
    "command",
    [
        "git-receive-pack '/srv/live/store.git'",
        "git-upload-pack 'store.git'",
        "git receive-pack '/store.git'",
        "git-receive-pack /srv/live/../live/store.git",
    ],
)
def test_a_key_pushes_to_and_fetches_from_its_one_repository(command: str) -> None:
    found = asked(command, GIT_PROTOCOL="version=2", LD_PRELOAD="x.so", LIVETAG_PRINCIPAL="alice@example.org")
    assert isinstance(found, Git)
    assert found.argv[-1] == "/srv/live/store.git"
    assert found.argv[-2] in {"receive-pack", "upload-pack"}
    assert found.env["LIVETAG_PRINCIPAL"] == "bob@example.org", "whatever the client would have it"
    assert found.env["GIT_PROTOCOL"] == "version=2"
    assert "LD_PRELOAD" not in found.env


@pytest.mark.parametrize(
    "command",
    [
        "",
        "sh",
        "git-receive-pack '/srv/other/store.git'",
        "git-receive-pack '/srv/live/store.git/../../other.git'",
        "git-receive-pack '/srv/live/store.git' --advertise-refs",
        "git-receive-pack '/srv/live/store.git'; touch /tmp/x",
        "git-receive-pack '/srv/live/store.git' && sh",
        "git-receive-pack $(touch /tmp/x)",
        "git-upload-archive '/srv/live/store.git'",
        "git --exec-path=/tmp receive-pack /srv/live/store.git",
        "git-receive-pack 'unbalanced",
        "livetag rollback --reason x",
        "livetag status --dir /srv/other",
        "livetag plan --repo /tmp/x rib/v1.0.0",
        "livetag history rib; sh",
    ],
)
def test_a_key_does_nothing_else(command: str) -> None:
    with pytest.raises(ShellRefused, match="this key"):
        asked(command)


def test_a_key_may_look() -> None:
    for command in ("livetag status", "livetag history rib --json", "livetag plan rib/v1.0.0"):
        found = asked(command)
        assert isinstance(found, Look)
        assert found.arguments[-2:] == ("--dir", "/srv/live")


def test_a_principal_that_could_be_read_as_more_than_a_name_is_refused() -> None:
    with pytest.raises(ShellRefused, match="no principal"):
        decide("bob\nOutcome: committed", PLACE, {})


@contextmanager
def by_hand(path: Path) -> Iterator[dict[str, str]]:
    """What sshd does with a forced command, without sshd: `ssh HOST COMMAND` becomes SSH_ORIGINAL_COMMAND."""
    transport = path / "ssh"
    transport.write_text(
        "#!/bin/sh\n# ssh [options] HOST COMMAND; the host names the principal\n"
        'while [ "$#" -gt 2 ]; do shift; done\n'
        'principal=$1; export SSH_ORIGINAL_COMMAND="$2"\n'
        f'exec {shlex.quote(sys.executable)} -m livetag shell "$principal" --dir {shlex.quote(str(path / "d"))}\n'
    )
    transport.chmod(0o755)
    yield {"GIT_SSH_COMMAND": str(transport), "GIT_SSH_VARIANT": "simple"}


def test_a_principal_reaches_the_hooks_the_allow_list_and_the_record(tmp_path: Path) -> None:
    with deployed(tmp_path, start=False) as deployment, by_hand(tmp_path) as env:
        write_policy(deployment.path, {"livetag.toml": '[policy]\nallow = ["ssh:bob@example.org"]\n'})
        deployment.start()
        deployment.write("counter", CODE)
        # a clone's own livetag.toml has no say: it is only a file of the pushed tree
        deployment.work.write("livetag.toml", '[policy]\nallow = ["ssh:mallory@example.org"]\n')
        deployment.release("counter/v1.0.0")
        bob, mallory = (f"{who}@example.org:store.git" for who in ("bob", "mallory"))
        refused = deployment.work.run("push", mallory, "main", "counter/v1.0.0", check=False, env=env)
        assert refused.returncode == 1
        assert "ssh:mallory@example.org may not release counter here" in refused.stderr, refused.stderr
        owner = pwd.getpwuid(os.geteuid()).pw_name
        local = deployment.push("counter/v1.0.0")
        assert f"os:{owner} may not release counter" in local.stderr
        done = deployment.work.run("push", bob, "main", "counter/v1.0.0", check=False, env=env)
        assert done.returncode == 0, done.stderr
        assert deployment.history()[0]["who"] == "ssh:bob@example.org"


CODE = """
    from livetag import Module, handles

    class Counter(Module[dict]):
        def initial_state(self):
            return {"total": 0}

        @handles
        def tick(self) -> int:
            return 1
"""


@pytest.mark.slow
@pytest.mark.skipif(SSHD is None, reason="there is no sshd here")
@pytest.mark.skipif(os.geteuid() != 0, reason="sshd of another user cannot open a session")
def test_the_real_sshd_with_the_line_of_the_readme(tmp_path: Path) -> None:
    bob = Person(tmp_path / "keys", "bob@example.org")
    host = Person(tmp_path / "keys", "host@example.org")
    with deployed(tmp_path) as deployment, real_sshd(tmp_path, bob, host) as env:
        deployment.write("counter", CODE)
        deployment.release("counter/v1.0.0")
        url = f"ssh://{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1{deployment.place.store}"
        forged = {**env, "LIVETAG_PRINCIPAL": "alice@example.org"}
        done = deployment.work.run("push", url, "main", "counter/v1.0.0", check=False, env=forged)
        assert done.returncode == 0, done.stderr
        assert deployment.history()[0]["who"] == "ssh:bob@example.org"
        shell = subprocess.run(
            [*shlex.split(env["GIT_SSH_COMMAND"]), "127.0.0.1", "id"],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert shell.returncode == 1
        assert "is not allowed with this key" in shell.stderr


@contextmanager
def real_sshd(path: Path, bob: Person, host: Person) -> Iterator[dict[str, str]]:
    """A real sshd on a port of its own, to which bob's key opens `livetag shell`."""
    assert SSHD is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = f"{sys.executable} -m livetag shell bob@example.org --dir {path / 'd'}"
    environment = f'environment="PYTHONPATH={Path(__file__).parents[2]}",'
    (path / "authorized_keys").write_text(f'command="{command}",{environment}restrict {bob.public}\n')
    (path / "authorized_keys").chmod(0o600)
    (path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host.key}\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {path / 'authorized_keys'}\nPermitUserEnvironment PYTHONPATH\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (path / "sshd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(path / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(lambda: daemon.poll() is not None or listens(port), "sshd listens")
            if daemon.poll() is not None:
                pytest.skip(f"sshd does not start here: {(path / 'sshd.log').read_text()[-300:]}")
            ssh = f"ssh -F none -p {port} -i {bob.key} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no"
            yield {"GIT_SSH_COMMAND": f"{ssh} -o UserKnownHostsFile=/dev/null -o SendEnv=LIVETAG_PRINCIPAL"}
        finally:
            daemon.terminate()
            daemon.wait(10)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
