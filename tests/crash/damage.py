"""A running deployment whose repository is damaged on purpose, and mended again from a copy."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

from orchestrator.control.doctor.examine import examine, repair
from orchestrator.control.selftest.scratch import end_group
from tests.git_fixtures import clean_environment
from tests.stories.counter_code import COUNTER
from tests.stories.deployment import Deployment, wait_until

MODULES = ("counter", "other")


def code(module: str, number: int = 0, head: str = "") -> str:
    """A counter under the module's name; the number makes it another release, `head` may give it a `Gated` parent."""
    text = dedent(COUNTER.replace("Counter", module.title()))
    text = text.replace("(Module[State])", "(Gated, Module[State])") if head else text
    return f"{dedent(head)}{text}\n# {number}\n"


class Yard:
    """Two modules in service, each with a version below the one that serves: what a lost tag must not bring back."""

    def __init__(self, path: Path) -> None:
        self.deployment = Deployment(path)
        self.store = self.deployment.place.store
        self._copy = path / "copy.git"
        self._number = 0
        self._lost: set[Path] = set()
        self._expected: dict[str, str] = {}
        self._asked = dict.fromkeys(MODULES, 0)
        try:
            self.deployment.start()
            for _ in (1, 2):
                self.pushed(*MODULES)
        except BaseException:  # nobody has it yet who could close it
            self.deployment.close()
            raise

    # -- releases ----------------------------------------------------------------------------------------------------

    def commit(self, *modules: str, annotate: bool = False, head: str = "") -> tuple[str, ...]:
        """Commit a new version of the modules in the clone, and return their tags. Nothing is pushed."""
        self._number += 1
        for module in modules:
            self.deployment.write(module, code(module, self._number, head))
        self.deployment.work.commit(f"version {self._number}")
        tags = tuple(f"{module}/v1.{self._number}.0" for module in modules)
        for tag in tags:
            self.deployment.work.tag(tag, annotate="a version" if annotate else None)
        return tags

    def pushed(self, *modules: str) -> None:
        """A new version of the modules, pushed and live."""
        tags = self.commit(*modules)
        done = self.deployment.push("main", *tags)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def pushing(self, *refs: str) -> Iterator[subprocess.Popen[str]]:
        """A push beside the block, which waits for it; a block that fails ends it."""
        with subprocess.Popen(
            ["git", "push", "live", *refs],
            cwd=self.deployment.work.path,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as push:
            try:
                yield push
            except BaseException:
                end_group(push)
                raise

    def objects(self) -> None:
        """Bring the objects of the clone into the store past Git, which takes no push while the store is damaged."""
        for path in (self.deployment.work.path / ".git" / "objects").glob("??/*"):
            target = self.store / "objects" / path.parent.name / path.name
            if not target.exists() and target not in self._lost:
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)

    def write_tag(self, tag: str, object_id: str | None = None) -> None:
        """Tag in the store, as somebody on that machine does."""
        object_id = object_id or self.deployment.work.git("rev-parse", f"refs/tags/{tag}")
        path = self.store / "refs" / "tags" / tag
        path.parent.mkdir(parents=True, exist_ok=True)
        born = path.with_name(f"{path.name}.lock")
        born.write_text(f"{object_id}\n")
        born.replace(path)

    def tag(self, module: str) -> str:
        """The tag that the module serves by."""
        return str(self.deployment.status()["modules"][module]["tag"])

    def id(self, name: str) -> str:
        """What the name means in the clone, which is whole."""
        return self.deployment.work.git("rev-parse", name)

    # -- damage ------------------------------------------------------------------------------------------------------

    def object_file(self, name: str) -> Path:
        """The loose object in the store, writable."""
        object_id = self.id(name)
        path = self.store / "objects" / object_id[:2] / object_id[2:]
        path.chmod(0o644)
        return path

    def lose(self, name: str) -> None:
        """Take the object away until the mend."""
        path = self.object_file(name)
        path.unlink()
        self._lost.add(path)

    @contextmanager
    def damaged(self) -> Iterator[None]:
        """What is done to the store in the block is undone after it; then all goes on by itself."""
        self.expects(self.versions())
        shutil.copytree(self.store, self._copy, symlinks=True)
        try:
            yield
            self.serves(self._expected)
        finally:
            self.mend()
            shutil.rmtree(self._copy)
        self.problem_ends()
        self.serves(self._expected)

    def mend(self) -> None:
        """Make the store again what it was."""
        restore(self._copy, self.store)
        self._lost.clear()
        self.wake()

    def repaired(self) -> str:
        """What `livetag doctor --repair` says that it did."""
        return "\n".join(repair(self.deployment.place).repaired)

    def restart(self) -> None:
        """Stop the host and start another one, which knows only what is on disk."""
        self.deployment.stop()
        self.deployment.start()

    # -- what is so --------------------------------------------------------------------------------------------------

    def expects(self, served: dict[str, str]) -> None:
        """From now on these versions should serve."""
        self._expected = served

    def transactions(self) -> int:
        return len(self.deployment.history())

    def problem_ends(self) -> None:
        wait_until(lambda: self.deployment.status()["problem"] is None, "the host finds nothing wrong")

    def goes_live(self, tag: str) -> None:
        module = tag.partition("/")[0]
        wait_until(lambda: self.tag(module) == tag, f"{tag} goes live")

    def wake(self) -> None:
        """Have the host look: a file that is written in place tells nobody."""
        self.deployment.call("wake")

    def versions(self) -> dict[str, str]:
        modules = self.deployment.status()["modules"]
        return {name: f"{row['version']} by {row['tag']}" for name, row in modules.items()}

    def serves(self, served: dict[str, str]) -> None:
        """See that these versions answer with all that they have counted, and that nobody was blamed."""
        assert self.versions() == served
        for module in MODULES:
            self._asked[module] += 1
            assert self.deployment.ask(module, "tick") == self._asked[module], module
        assert self.deployment.status()["quarantine"] == []

    def other_goes_live(self) -> dict[str, str]:
        """A good release of the other module goes live all the same; returns what serves then."""
        (tag,) = self.commit("other")
        self.objects()
        self.write_tag(tag)
        self.goes_live(tag)
        self._expected = {**self._expected, "other": self.versions()["other"]}
        return self._expected

    def problem(self, *words: str) -> str:
        """Wait until the host says these words of what is wrong; returns all of them."""
        self.wake()

        def said() -> str:
            status = self.deployment.status()
            return f"{status['problem']} {[row['why'] for row in status['waiting']]}"

        wait_until(lambda: all(word in said() for word in words), f"{words} in: {said()}")
        return said()

    def doctor(self) -> dict[str, str]:
        """Check → what is wrong and what to do."""
        found: dict[str, str] = {}
        for each in examine(self.deployment.place).findings:
            if not each.ok:
                found[each.check] = f"{found.get(each.check, '')}{each.what} {each.todo}\n"
        return found


def flip(path: Path, where: Callable[[int], int] = lambda size: size // 2) -> None:
    """Flip one byte."""
    data = bytearray(path.read_bytes())
    data[where(len(data))] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(data)


def restore(copy: Path, store: Path) -> None:
    """Make the store what the copy is, but for objects that came since: those do no harm."""
    wanted = {path.relative_to(copy) for path in copy.rglob("*")}
    for path in sorted(store.rglob("*"), reverse=True):
        relative = path.relative_to(store)
        goes_on = relative.parts[0] in {"objects", "refs"} or path.suffix == ".lock"  # a test removes its own
        if relative not in wanted and not goes_on:
            path.rmdir() if path.is_dir() else path.unlink()
    for relative in sorted(wanted):
        source, target = copy / relative, store / relative
        if source.is_dir():
            target.mkdir(exist_ok=True)
        elif not target.exists() or target.read_bytes() != source.read_bytes():
            if relative.parts[:2] in {("refs", "heads"), ("refs", "live")} and target.exists():
                continue  # the history went on
            born = target.with_name(f".{target.name}.mended")
            shutil.copy2(source, born)
            born.replace(target)
