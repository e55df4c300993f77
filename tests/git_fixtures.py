"""Real Git for tests: a bare store that takes plain pushes, and a work clone to write, commit, tag and push."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import tomli

from repo_store.release import TagRef, parse_tag
from repo_store.store import RepoStore

COUNTER = """
    from livetag import Module, handles

    class Counter(Module):
        def initial_state(self):
            return {"total": 0}

        @handles
        def tick(self):
            self.state["total"] += 1
            return self.state["total"]
"""


def clean_environment() -> dict[str, str]:
    """Give an environment in which Git knows its author, and nothing of the user's or of a hook."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = {"NAME": "Ada", "EMAIL": "ada@example.org"}
    return {
        **kept,
        **{f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in who.items()},
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "LC_ALL": "C",
    }


NO_PROBATION = "[probation]\nseconds = 0\n"


class GitRepo:
    """A work clone. `push` needs `remote`; every method runs the real `git`, and a failure of it fails the test.

    Its modules ask for no probation unless their module.toml says of one: most tests are about something else, and what they
    deploy has passed as soon as it is committed. `probation` leaves them as they are written.
    """

    probation = False

    def __init__(self, path: Path, remote: Path | str | None = None) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")
        if remote is not None:
            self.git("remote", "add", "live", str(remote))

    def run(
        self, *args: str, stdin: str | None = None, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `git args`; with check=False the caller looks at returncode and stderr (a refused push)."""
        done = subprocess.run(
            ["git", *args],
            cwd=self.path,
            env={**clean_environment(), **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"git {' '.join(args)}: {done.stderr}"
        return done

    def git(self, *args: str, stdin: str | None = None) -> str:
        """Run `git args` here and give its output without the last newline."""
        return self.run(*args, stdin=stdin).stdout.rstrip("\n")

    def write(self, path: str, text: str | bytes) -> Path:
        """Write a file of the work tree (text is dedented), making its folders."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).lstrip("\n").encode())
        return file

    def remove(self, path: str) -> None:
        self.git("rm", "-r", "-q", "-f", "--", path)

    def commit(self, message: str = "change") -> str:
        """Commit everything in the work tree, even nothing new, and give the commit id."""
        if not self.probation:
            self._ask_for_none()
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.head()

    def _ask_for_none(self) -> None:
        for init in self.path.glob("modules/*/__init__.py"):
            toml = init.parent / "module.toml"
            if toml.is_symlink() or (toml.exists() and toml.stat().st_size > 10_000):
                continue
            said = toml.read_bytes() if toml.exists() else b""
            try:
                asked = "probation" in tomli.loads(said.decode())
            except (ValueError, RecursionError):  # it is broken on purpose
                continue
            if not asked:
                toml.write_bytes(said.rstrip(b"\n") + b"\n" * bool(said) + NO_PROBATION.encode())

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def tag(
        self, name: str, target: str = "HEAD", *, annotate: str | None = None, force: bool = False
    ) -> str:
        """Tag `target` and give the id of the object that the tag's ref names."""
        message = [] if annotate is None else ["-a", "-m", annotate]
        self.git("tag", *(["-f"] if force else []), *message, name, target)
        return self.git("rev-parse", f"refs/tags/{name}")

    def push(self, *refs: str, force: bool = False, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Push to the remote `live`; without refs: the branch and all tags."""
        flags = ["--force"] if force else []
        return self.run("push", *flags, "live", *(refs or ("main", "--tags")), check=check)

    def module(self, package: str = "counter", code: str = COUNTER, toml: str | None = None) -> None:
        """Write modules/<package>/ with that code as its __init__.py, and a module.toml if given."""
        self.write(f"modules/{package}/__init__.py", code)
        if toml is not None:
            self.write(f"modules/{package}/module.toml", toml)

    def release(
        self, tag: str, code: str = COUNTER, toml: str | None = None, message: str = "release"
    ) -> str:
        """Write the module of that tag, commit, tag, push both, and give the commit id."""
        self.module(tag.partition("/")[0], code, toml)
        commit_id = self.commit(message)
        self.tag(tag)
        self.push("main", f"refs/tags/{tag}")
        return commit_id


@contextmanager
def bare_store(path: Path) -> Iterator[RepoStore]:
    """Make a store without hooks that takes tags like any repository (no proc-receive stands in between)."""
    with RepoStore.create(path) as store:
        take_plain_pushes(path)
        yield store


def take_plain_pushes(path: Path) -> None:
    """Let the bare repository take tags itself: without the hook, `receive.procReceiveRefs` refuses them."""
    subprocess.run(
        ["git", "config", "--file", str(path / "config"), "--unset-all", "receive.procReceiveRefs"],
        check=True,
        env=clean_environment(),
        timeout=60,
    )


def tag_ref(store: RepoStore, name: str) -> TagRef:
    """Give where a tag of the store points."""
    assert parse_tag(name) is not None
    return store.refs()[name]
