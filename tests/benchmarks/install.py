"""What is measured, and what it needs: the peers, and uvloop for ours. Not in the environment of the tests.

The peers are installed into an environment of their own, each by itself, so that one that cannot be had hides no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.harness import HERE, Missing

PEERS = HERE / "peers"
PINNED = {
    "pykka": "pykka==4.5.0",
    "thespian": "thespian==4.0.1",
    "xoscar": "xoscar==0.12.2",
    "gunicorn": "gunicorn==27.0.1",
    "mrtparse": "mrtparse==2.2.0",
}
UVLOOP = "uvloop==0.23.0"
SCRIPTS = {
    "pykka": ("actors.py", "pykka"),
    "thespian": ("actors.py", "thespian"),
    "xoscar": ("actors.py", "xoscar"),
    "mrtparse": ("mrt.py",),
}
ERLANG = "erl and erlc of Erlang/OTP are not on the path; on Debian: apt-get install erlang-base"

Say = Callable[[str], None]


class Peers:
    """Where the peers are. What could not be installed is remembered, with pip's last word."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._venv = folder / "venv"
        self._erlang = folder / "erlang"
        self._missing: dict[str, str] = {}

    def install(self, say: Say) -> None:
        """Install what is not there yet."""
        if not self.python.exists():
            say(f"making {self._venv}")
            venv.create(self._venv, with_pip=True)
        for name, wanted in PINNED.items():
            if self._installed(name) == wanted.partition("==")[2]:
                continue
            say(f"installing {wanted}")
            pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted]
            done = subprocess.run(pip, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
                self._missing[name] = f"{wanted} could not be installed: {last}"

    def install_ours(self, say: Say) -> None:
        """uvloop, which a host uses where it is installed: into a folder that this run and its children import from."""
        folder = self._folder / "ours"
        if find_spec("uvloop") is None and not folder.exists():
            say(f"installing {UVLOOP}")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run(
                [*pip, "--target", folder, UVLOOP], check=False
            )  # without it: asyncio, which is said
        sys.path.append(str(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))

    @property
    def python(self) -> Path:
        return self._venv / "bin" / "python"

    def _installed(self, name: str) -> str:
        code = f"from importlib.metadata import version; print(version({name!r}))"
        done = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def script(self, name: str) -> Path:
        """A console script of a peer. Raises Missing."""
        self._refuse(name)
        return self._venv / "bin" / name

    def command(self, name: str) -> list[str]:
        """How a peer's side is started. Raises Missing."""
        if name == "erlang":
            return self._erlang_command()
        self._refuse(name)
        script, *words = SCRIPTS[name]
        return [str(self.python), str(PEERS / script), *words]

    def _refuse(self, name: str) -> None:
        if name in self._missing:
            raise Missing(self._missing[name])
        if not self._installed(name):
            raise Missing(f"{PINNED[name]} is not installed")

    def _erlang_command(self) -> list[str]:
        if shutil.which("erl") is None or shutil.which("erlc") is None:
            raise Missing(ERLANG)
        for version in ("1", "2"):
            folder = self._erlang / version
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["erlc", f"-DVERSION={version}", "-o", folder, PEERS / "kv.erl"], check=True)
        subprocess.run(["erlc", "-o", self._erlang, PEERS / "bench.erl"], check=True)
        where = str(self._erlang)
        return ["erl", "-noshell", "-pa", where, "-run", "bench", "main", where]

    def versions(self) -> dict[str, str]:
        """What is there, by name; of what is not, why."""
        found = {name: self._installed(name) or self._missing.get(name, "missing") for name in PINNED}
        return {"Erlang/OTP": _otp(), **found}


def _otp() -> str:
    if shutil.which("erl") is None:
        return ERLANG
    code = 'io:format("~s", [erlang:system_info(otp_release)]), halt(0).'
    return subprocess.run(
        ["erl", "-noshell", "-eval", code], capture_output=True, text=True, check=False
    ).stdout


def ours() -> dict[str, str]:
    """Versions of what ours runs on."""
    try:
        loop = metadata.version("uvloop")
    except metadata.PackageNotFoundError:
        loop = "not installed: ours ran on asyncio"
    return {"Python": sys.version.split()[0], "uvloop": loop}
