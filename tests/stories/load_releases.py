"""The releases of the load story: good ones and broken ones, ways back, moved and deleted tags, other compositions."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.stories.deployment import Deployment, Facts, wait_until
from tests.stories.load_modules import SPARE, app, package
from tests.stories.load_sink import BROKEN, sink

LIVE_S = 120.0
PACKAGES = ("lane", "relay", "sink")
Made = dict[str, tuple[int, int]]
"""Package → variant (of the sink: shape of its state) and era."""


class Releases:
    """Pushes what it is asked for, and sees that it ended as it must."""

    def __init__(self, deployment: Deployment, choose: Random, feed: str) -> None:
        self._deployment = deployment
        self._choose = choose
        self._feed = feed
        self._number = 0
        self._made: Made = dict.fromkeys(PACKAGES, (1, 0))
        self._spare, self._weight = False, 1
        self.kinds: dict[str, Callable[[], None]] = {
            "all together": self.together,
            "one package": self.one,
            "a rollback": self.rollback,
            "a deleted tag": self.deleted,
            "a moved tag": self.moved,
            "app.toml": self.composed,
            "a hold": self.held,
        }
        self.failing = {f"broken: {kind}": kind for kind in BROKEN}

    def first(self) -> None:
        self._write(self._made)
        self._deployment.write("spare", SPARE)
        self._write_app()
        tags = [f"{name}/v1.0.0" for name in (*PACKAGES, "spare", "app")]
        self._deployment.deploy(*tags)

    # -- what goes live ----------------------------------------------------------------------------------------

    def together(self) -> None:
        """All packages in one transaction, with another era."""
        self._live(self._next(*PACKAGES), *PACKAGES)

    def one(self) -> None:
        name = self._choose.choice(PACKAGES)
        self._live(self._next(name), name)

    def rollback(self) -> None:
        """Back from a release of all, or of one, by `livetag rollback`."""
        before = self._made
        self._choose.choice((self.together, self.one))()
        txn = self._newest(f"v1.{self._number}.0")["id"]
        done = self._deployment.call("rollback", txn=txn, reason="as the dice say")
        assert {row["verdict"] for row in done["tags"]} <= {"live"}, done
        self._made = before

    def deleted(self) -> None:
        """Back from a release of one package by the deletion of its tag."""
        before = self._made
        name = self._choose.choice(PACKAGES)
        was = self._commit_of(name)
        self._live(self._next(name), name)
        pushed = self._deployment.push(f":refs/tags/{name}/v1.{self._number}.0")
        assert pushed.returncode == 0, pushed.stderr
        wait_until(lambda: self._commit_of(name) == was, f"{name} is as before its tag", LIVE_S)
        self._made = before

    def moved(self) -> None:
        """Forward by the same tag on another commit."""
        self.one()
        name = next(name for name in PACKAGES if f"{name}/v1.{self._number}.0" in self._deployment.tags())
        tag = f"{name}/v1.{self._number}.0"
        self._made = self._next(name)
        self._write(self._made)
        commit = self._deployment.release()
        self._deployment.work.tag(tag, force=True)
        pushed = self._deployment.push("main", tag, force=True)
        assert pushed.returncode == 0, pushed.stderr
        assert self._commit_of(name) == commit

    def composed(self) -> None:
        """Another app.toml: a module more or less, and another config of the relays."""
        self._spare, self._weight = not self._spare, self._weight + self._choose.randrange(2)
        self._write_app()
        self._number += 1
        self._deployment.deploy(f"app/v1.{self._number}.0")

    def held(self) -> None:
        """A hold keeps a release back until it is taken off."""
        name = self._choose.choice(PACKAGES)
        was, made = self._commit_of(name), self._next(name)
        self._deployment.call("hold", name="", reason="for a moment")
        tag, commit = self._tagged(made, name)
        pushed = self._deployment.work.run("push", "-o", "no-wait", "live", "main", *tag, check=False)
        assert pushed.returncode == 0, pushed.stderr
        wait_until(
            lambda: any(tag[0] in w["tags"] for w in self._deployment.status()["waiting"]), "it waits", LIVE_S
        )
        assert self._commit_of(name) == was
        self._deployment.call("unhold", name="", reason="it is over")
        wait_until(lambda: self._commit_of(name) == commit, "what was held is live", LIVE_S)
        self._made = made

    # -- what does not -----------------------------------------------------------------------------------------

    def broken(self, kind: str) -> None:
        """Push a release with a sink that fails, or of all with such a sink; every module is as it was."""
        names = PACKAGES if kind == "take_over" else ("sink",)
        before = self._deployment.status()["modules"]
        tags, _ = self._tagged(self._next(*names), *names, broken=kind)
        wait = ["-o", "no-wait"] if kind == "the pause" else []  # it would be tried again
        pushed = self._deployment.work.run("push", *wait, "live", "main", *tags, check=False)
        if wait:
            wait_until(lambda: self._newest(tags[-1])["outcome"] == "rolled_back", "it is undone", LIVE_S)
            assert self._newest(tags[-1])["pause_us"] > 200_000
            self._deployment.push(*[f":refs/tags/{tag}" for tag in tags])
        else:
            assert pushed.returncode == 1, f"{kind}: {pushed.stderr}"
        after = self._deployment.status()["modules"]
        assert [after[n]["commit"] for n in before] == [before[n]["commit"] for n in before], kind
        self._write(self._made)

    # -- how -----------------------------------------------------------------------------------------------------

    def _next(self, *names: str) -> Made:
        """What is made with another variant of these; of all together it is another era, too."""
        era = self._number + 1 if len(names) == len(PACKAGES) else self._made["sink"][1]
        made = dict(self._made)
        for name in PACKAGES:
            variant = made[name][0]
            if name in names:
                variant = (
                    self._choose.choice([x for x in (1, 2, 3) if x != variant])
                    if name == "sink"
                    else variant + 1
                )
            made[name] = variant, era
        return made

    def _live(self, made: Made, *names: str) -> None:
        tags, commit = self._tagged(made, *names)
        pushed = self._deployment.push("main", *tags)
        assert pushed.returncode == 0, pushed.stderr
        assert {self._commit_of(name) for name in names} == {commit}
        self._made = made

    def _tagged(self, made: Made, *names: str, broken: str = "") -> tuple[list[str], str]:
        self._number += 1
        self._write(made, broken)
        tags = [f"{name}/v1.{self._number}.0" for name in names]
        return tags, self._deployment.release(*tags)

    def _write(self, made: Made, broken: str = "") -> None:
        for name, (variant, era) in made.items():
            files = (
                sink(variant, era, broken, self._number) if name == "sink" else package(name, variant, era)
            )
            self._deployment.write(name, files)

    def _write_app(self) -> None:
        self._deployment.work.write("app.toml", app(self._feed, spare=self._spare, weight=self._weight))

    def _commit_of(self, name: str) -> str:
        module = {"lane": "north", "relay": "left"}.get(name, name)
        return str(self._deployment.status()["modules"][module]["commit"])

    def _newest(self, tag: str) -> Facts:
        """The newest transaction that this tag led to."""
        found = [txn for txn in self._deployment.call("history", limit=20) if tag in txn["by"]]
        return found[0] if found else {"outcome": "", "id": 0, "pause_us": 0}
