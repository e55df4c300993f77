"""Looking for news among many tags, and noticing a pushed one. Usage: tags FOLDER"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic, perf_counter_ns, sleep

from repo_store.monitor import TagMonitor
from repo_store.release import RefMap
from repo_store.stamp import is_unmoved
from repo_store.store import RepoStore
from tests.benchmarks.peers.answer import Measured, answer, each_ns
from tests.git_fixtures import GitRepo, bare_store, clean_environment

NOTICED_S = 5.0
PACK_EVERY = 100


class Tags:
    """One store with so many packed tags, and one that is pushed to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def fill(self, count: int) -> Measured:
        self._many = self._folder / "many.git"
        with bare_store(self._many):
            pass
        work = GitRepo(self._folder / "many", self._many)
        work.module()
        commit = work.commit()
        work.push("main")
        lines = "".join(f"create refs/tags/counter/v1.0.{number} {commit}\n" for number in range(count))
        git = ["git", f"--git-dir={self._many}"]
        env = clean_environment()
        subprocess.run([*git, "update-ref", "--stdin"], input=lines, text=True, check=True, env=env)
        subprocess.run([*git, "pack-refs", "--all"], check=True, env=env)
        self._store = RepoStore.open(self._many)
        assert len(self._store.refs()) == count
        return {"tags": [float(count)]}

    def refs(self, count: int) -> Measured:
        return {"look": each_ns(self._store.refs, count)}

    def unmoved(self, count: int) -> Measured:
        stamp = self._store.stamp()
        return {"look": each_ns(lambda: is_unmoved(stamp), count), "stats": [float(len(stamp.rows))]}

    def for_each_ref(self, count: int) -> Measured:
        command = [
            "git",
            f"--git-dir={self._many}",
            "for-each-ref",
            "--format=%(objectname) %(refname)",
            "refs/tags",
        ]
        env = clean_environment()

        def look() -> dict[str, str]:
            told = subprocess.run(command, check=True, capture_output=True, env=env, text=True).stdout
            rows = (line.split(" ", 1) for line in told.splitlines())
            return {name: object_id for object_id, name in rows}

        return {"look": each_ns(look, count)}

    def pushes(self, count: int, seconds: int) -> Measured:
        """Annotated tags on a commit each, pushed; when each was noticed, and when the push had ended, from its start.

        As many as there is time for.
        """
        end = monotonic() + seconds
        bare = self._folder / "pushed.git"
        with bare_store(bare):
            pass
        work = GitRepo(self._folder / "pushed", bare)
        work.module()
        work.commit()
        work.push("main")
        noticed: dict[str, int] = {}
        came = threading.Condition()

        def on_change(_before: RefMap, now: RefMap) -> None:
            at = perf_counter_ns()
            with came:
                for name in now:
                    noticed.setdefault(name, at)
                came.notify_all()

        monitor = TagMonitor(bare, on_change)
        monitor.start()
        found: dict[str, list[float]] = {"noticed": [], "push": []}
        try:
            for number in range(count):
                if monotonic() > end:
                    break
                if number % PACK_EVERY == 0:  # else every push pays for all loose ones before it
                    for path in (bare, work.path):
                        subprocess.run(
                            ["git", "-C", str(path), "pack-refs", "--all"],
                            check=True,
                            env=clean_environment(),
                        )
                    sleep(0.1)
                name = f"counter/v1.0.{number}"
                work.write("modules/counter/n.py", f"N = {number}\n")
                work.commit()
                work.tag(name, annotate=name)
                began = perf_counter_ns()
                work.push(f"refs/tags/{name}")
                found["push"].append(perf_counter_ns() - began)
                with came:
                    assert came.wait_for(lambda name=name: name in noticed, NOTICED_S)  # type: ignore[misc]
                found["noticed"].append(noticed[name] - began)
        finally:
            monitor.stop()
        return found


def main() -> None:
    tags = Tags(Path(sys.argv[1]))
    answer({name: getattr(tags, name) for name in ("fill", "refs", "unmoved", "for_each_ref", "pushes")})


if __name__ == "__main__":
    main()
