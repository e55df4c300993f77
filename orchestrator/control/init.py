"""`livetag init`: a deployment directory, and a clone to work in. All of it is made, or nothing is left."""

import contextlib
import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from hooks.install import install
from orchestrator.control.clone import Clone, CloneFailed
from orchestrator.control.config import CLONE_SETTING, Deployment
from orchestrator.control.starter import CONFIG, FILES, TAG
from repo_store.store import RepoStore

REMOTE = "live"
# A company's own hooks or signing rules must not be able to stop a first commit that nobody wrote by hand.
UNHOOKED = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", "-c", "tag.gpgSign=false")
# A clone that fetches these reads the history under the names that the store itself has:
# `git log deployments`, `git log refs/live/counter`. The * lets a fetch before the first deployment pass.
HISTORY_REFSPECS = ("+refs/heads/deployments*:refs/deployments*", "+refs/live/*:refs/live/*")


class InitRefused(Exception):
    """A deployment or clone cannot be made there; the message says why. Nothing was left behind."""


def create(directory: Path, work: Path | None, env: Mapping[str, str]) -> tuple[Deployment, list[str]]:
    """Make a deployment in `directory` and, if `work` is given, a clone of it there.

    Returns the deployment and what the user should know about it and the clone. Raises InitRefused, CloneFailed,
    StoreError or OSError, having removed whatever was made so far.
    """
    directory = directory.expanduser().resolve()
    _check_place(directory)
    with contextlib.ExitStack() as undo:
        if work is None:
            undo.enter_context(_made_or_removed(directory))
            return _fill_deployment(directory)
        work = work.expanduser().resolve()
        if work.is_relative_to(directory) or directory.is_relative_to(work):
            raise InitRefused(
                f"{work} and {directory}: the clone and the deployment each need a place of their own."
            )
        _check_place(work)
        undo.enter_context(_made_or_removed(directory))
        deployment, remarks = _fill_deployment(directory)
        undo.enter_context(_made_or_removed(work))
        return deployment, remarks + _fill_clone(Clone(work, env), deployment)


def next_lines(work: Path, deployment: Deployment) -> list[str]:
    """Return the three lines to type after `init --work`: run the host, push the first tag, ask for a tick."""
    command = _command()
    return [
        f"{command} run {shlex.quote(os.fspath(deployment.path))} &",
        f"cd {shlex.quote(os.fspath(work.expanduser().resolve()))} && git push {REMOTE} main {TAG}",
        f"{command} ask counter tick key=apples by:=3",
    ]


def _command() -> str:
    """How this command was called, in a form that also works from another directory."""
    called = Path(sys.argv[0])
    on_path = shutil.which("livetag")
    if on_path is not None and (called.name != "livetag" or Path(on_path).resolve() == called.resolve()):
        return "livetag"
    if called.name == "livetag" and called.is_file():
        return shlex.quote(os.fspath(called.absolute()))
    return f"{shlex.quote(sys.executable)} -m livetag"


def _check_place(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise InitRefused(f"{path} is there and is no directory. Name another place.")
    if Deployment(path).config_file.exists():
        raise InitRefused(f"{path} is a deployment already. Start it with `livetag run {path}`.")
    if any(path.iterdir()):
        raise InitRefused(f"{path} is not empty. Name an empty or a new directory.")


@contextlib.contextmanager
def _made_or_removed(path: Path) -> Iterator[None]:
    """Make the directory `path`; if the block fails, remove it again, or empty it if it was there before."""
    there = path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for child in path.iterdir():
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        if not there:
            path.rmdir()
        raise


def _fill_deployment(path: Path) -> tuple[Deployment, list[str]]:
    path.chmod(0o700)
    deployment = Deployment(path)
    RepoStore.create(deployment.store).close()
    remarks = install(deployment.store)
    deployment.stage.mkdir(mode=0o700)
    deployment.logs.mkdir(mode=0o700)
    # Last: livetag.toml is what makes a directory a deployment, so a kill before this leaves none.
    with os.fdopen(os.open(deployment.config_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(CONFIG)
    return deployment, remarks


def _fill_clone(clone: Clone, deployment: Deployment) -> list[str]:
    clone.run("init", "--quiet", "--initial-branch=main")
    clone.run("remote", "add", REMOTE, os.fspath(deployment.store))
    for refspec in HISTORY_REFSPECS:
        clone.run("config", "--add", f"remote.{REMOTE}.fetch", refspec)
    clone.run("config", CLONE_SETTING, os.fspath(deployment.path))
    remarks = _know_the_author(clone)
    for name, text in FILES:
        file = clone.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    clone.run("add", "--", *(name for name, _ in FILES))
    clone.run(*UNHOOKED, "commit", "--quiet", "--message", "Add a counter")
    clone.run(*UNHOOKED, "tag", "--annotate", "--message", "counter 1.0.0", TAG)
    return remarks


def _know_the_author(clone: Clone) -> list[str]:
    """Give the clone a name and an address if Git knows none: a fresh machine would refuse every commit."""
    try:
        clone.run("var", "GIT_AUTHOR_IDENT")
        clone.run("var", "GIT_COMMITTER_IDENT")
    except CloneFailed:
        name = _login()
        clone.run("config", "user.name", name)
        clone.run("config", "user.email", f"{name}@localhost")
        known = f"{name} <{name}@localhost>"
        return [f"Git knows no name of yours here; this clone uses {known} (git config user.name)."]
    return []


def _login() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without an entry
        return f"user{os.getuid()}"
