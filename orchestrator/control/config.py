"""Where a deployment is, what lies in it, and what its `livetag.toml` says (DESIGN §4, §9)."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.control.clone import Clone
from repo_store.manifest import HostConfig, parse_host
from repo_store.trusted import read_trusted

CONFIG_NAME = "livetag.toml"
VARIABLE = "LIVETAG_DIR"
CLONE_SETTING = "livetag.dir"


class DeploymentNotFound(Exception):
    """No deployment where one was looked for; the message says where, and how to name or make one."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment directory; the properties name what it holds, whether or not it exists yet."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / CONFIG_NAME

    @property
    def store(self) -> Path:
        return self.path / "store.git"

    @property
    def stage(self) -> Path:
        return self.path / "stage"

    @property
    def journal(self) -> Path:
        return self.path / "journal.db"

    @property
    def socket(self) -> Path:
        return self.path / "control.sock"

    @property
    def black_box(self) -> Path:
        return self.path / "running.mark"

    @property
    def logs(self) -> Path:
        return self.path / "logs"


def find_deployment(named: Path | None, env: Mapping[str, str], cwd: Path) -> Deployment:
    """Return the deployment that a command started in `cwd` means.

    In this order, the first that is given decides: `named` (`--dir`), LIVETAG_DIR, the nearest parent with a
    livetag.toml, `git config livetag.dir` of the clone one stands in. Raises DeploymentNotFound; a place that
    was named and holds no deployment is an error and never falls through to the next, so that a mistyped
    `--dir` cannot reach another deployment. Source: DESIGN §9.
    """
    if named is not None:
        return _named(cwd / named.expanduser(), "--dir")
    if env.get(VARIABLE):
        return _named(cwd / Path(env[VARIABLE]).expanduser(), VARIABLE)
    for folder in (cwd, *cwd.parents):
        if (folder / CONFIG_NAME).is_file():
            return Deployment(folder)
    setting = Clone(cwd, env).setting(CLONE_SETTING)
    if setting is not None:
        return _named(cwd / setting, f"git config {CLONE_SETTING}")
    raise DeploymentNotFound(
        f"No deployment found: no --dir, no {VARIABLE}, no {CONFIG_NAME} in {cwd} or above it, and no "
        f"`git config {CLONE_SETTING}` here. Name one with --dir DIR, or make one with `livetag init DIR`."
    )


def _named(path: Path, by: str) -> Deployment:
    path = path.resolve()
    if (path / CONFIG_NAME).is_file():
        return Deployment(path)
    what = "is no deployment (it has no livetag.toml)" if path.is_dir() else "is no directory"
    raise DeploymentNotFound(
        f"{path}, named by {by}, {what}. Name another, or make it one with `livetag init {path}`."
    )


def load_config(deployment: Deployment) -> HostConfig:
    """Return what the deployment's livetag.toml says, with the defaults for what it does not say.

    Raises ManifestInvalid naming file, key, value and what is allowed; PolicyUnreadable if it cannot be read, or others could
    have written it; OSError if it is not there.
    """
    data = read_trusted(deployment.config_file)
    if data is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(deployment.config_file))
    return parse_host(data, str(deployment.config_file))
