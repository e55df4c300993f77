"""The story that the demo plays: first versions, two upgrades, a broken one, a re-tag, and the rest of the feed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sample_app
from orchestrator.control.demo.facts import Facts, Mailbox, Seen, Step
from orchestrator.control.demo.playground import POLL_S, DemoFailed, Playground, Push
from orchestrator.control.demo.reference import COUNTS

SAMPLE = Path(sample_app.__file__).parent
MODULES = ("alerts", "decoder", "detector", "rib", "source")
FEED_S = 45.0  # how long the feed would last at its first rate: longer than all pushes take

LAST_TAG = "app/v1.1.0"  # after which the feed may end

Say = Callable[[str], None]


@dataclass
class Story:
    """Plays the steps on a playground, one after the other."""

    ground: Playground
    feed: Path
    expected: Seen
    say: Say

    def play(self) -> Facts:
        """Play it to its end. Raises DemoFailed, ControlError, CloneFailed."""
        began = time.monotonic()
        self._lay_out()
        first = self.ground.commit("First versions of the BGP monitor")
        self.ground.start_host()
        steps = [self._first_versions()]
        if steps[0].after is None:
            raise DemoFailed(f"the first versions did not go live: {steps[0].reason}")
        self._flowing()
        steps.append(self._upgrade("a faster decoder", "decoder", "1.1.0"))
        steps.append(
            self._upgrade("a detector that remembers more: its state changes shape", "detector", "1.1.0")
        )
        steps.append(self._upgrade("a detector that is broken on purpose", "detector", "1.2.0", good=False))
        steps.append(
            self._retag("a re-tag: back to the first detector, state and all", "detector", "1.1.1", first)
        )
        steps.append(self._let_it_run())
        self._wait_for_the_end()
        return replace(self._look(), steps=steps, expected=self.expected, **self._stop(began))

    # -- steps -------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        shutil.copytree(
            SAMPLE / "modules", self.ground.work / "modules", ignore=shutil.ignore_patterns("__pycache__")
        )
        self._write_app(max(1, round(self.expected.records / FEED_S)))

    def _write_app(self, rate: int) -> None:
        """The sample's app.toml, with this feed, this rate, and a file for the alerts."""
        text = (SAMPLE / "app.toml").read_text(encoding="utf-8")
        places = {
            '"feed.mrt"': json.dumps(str(self.feed)),
            '"alerts.jsonl"': json.dumps(str(self.ground.file("alerts.jsonl"))),
            "rate = 200": f"rate = {rate}",
        }
        for before, after in places.items():
            if before not in text:
                raise DemoFailed(f"the sample's app.toml has no {before} any more")
            text = text.replace(before, after)
        (self.ground.work / "app.toml").write_text(text, encoding="utf-8")

    def _first_versions(self) -> Step:
        tags = [*(f"{name}/v1.0.0" for name in MODULES), "app/v1.0.0"]
        for tag in tags:
            self.ground.tag(tag)
        step = Step("first versions of five modules", "app/v1.0.0", "source", "1.0.0", good=True)
        return self._push(step, "main", *tags)

    def _upgrade(self, title: str, module: str, version: str, *, good: bool = True) -> Step:
        """Put a later version's folder in place, commit, tag, push."""
        place = self.ground.work / "modules" / module
        shutil.rmtree(place)
        shutil.copytree(
            SAMPLE / "upgrades" / f"{module}-{version}", place, ignore=shutil.ignore_patterns("__pycache__")
        )
        self.ground.commit(title)
        tag = f"{module}/v{version}"
        self.ground.tag(tag)
        return self._push(Step(title, tag, module, version, good), tag)

    def _retag(self, title: str, module: str, version: str, commit_id: str) -> Step:
        """Put a higher version on the commit of the first one."""
        tag = f"{module}/v{version}"
        self.ground.tag(tag, commit_id)
        return self._push(Step(title, tag, module, "1.0.0", good=True), tag)

    def _let_it_run(self) -> Step:
        """The composition again, with no limit on the rate: the source is swapped in the middle of its file."""
        self._write_app(0)
        self.ground.commit("Replay the rest as fast as possible")
        self.ground.tag(LAST_TAG)
        title = "another config: the rest of the feed as fast as possible"
        return self._push(Step(title, LAST_TAG, "source", "1.0.0", good=True), LAST_TAG)

    def _push(self, step: Step, *refs: str) -> Step:
        self.say(f"{step.title}: git push live {step.tag}")
        before = self._modules()
        push = self.ground.push(*refs)
        after = self._modules()
        for line in _remote_lines(push, step.tag):
            self.say(f"    {line}")
        return self._told(step, push, before, after)

    def _told(self, step: Step, push: Push, before: dict[str, Any], after: dict[str, Any]) -> Step:
        decided = self.ground.ask("history", limit=1)[0]
        source = self.ground.ask("state", name="source") if step.module in after else {"ended": True}
        return replace(
            step,
            before=before.get(step.module, {}).get("version"),
            after=after.get(step.module, {}).get("version"),
            exit_code=push.exit_code,
            tag_stays=self.ground.has_tag(step.tag),
            outcome=decided["outcome"],
            reason=decided["reason"] or "",
            pause_us=decided["pause_us"] or 0.0,
            held_messages=decided["held_messages"] or 0,
            handled_before=sum(module["mailbox"]["handled"] for module in before.values()),
            handled_after=sum(module["mailbox"]["handled"] for module in after.values()),
            feed_ended=source["ended"] and step.tag != LAST_TAG,
            seconds=push.seconds,
        )

    def _modules(self) -> dict[str, Any]:
        modules: dict[str, Any] = self.ground.ask("status")["modules"]
        return modules

    # -- waiting and looking -----------------------------------------------------------------------------------

    def _flowing(self) -> None:
        """Wait until the first record has been decoded."""
        while not self._modules()["decoder"]["mailbox"]["handled"]:
            self.ground.left_s()
            time.sleep(POLL_S)

    def _wait_for_the_end(self) -> None:
        """Wait until the whole feed has been read and every mailbox is empty."""
        self.say("waiting for the rest of the feed")
        while not (self.ground.ask("state", name="source")["ended"] and self._idle()):
            self.ground.left_s()
            time.sleep(POLL_S)

    def _idle(self) -> bool:
        boxes = [module["mailbox"] for module in self._modules().values()]
        return all(box["length"] == 0 and box["accepted"] == box["handled"] + box["dead"] for box in boxes)

    def _look(self) -> Facts:
        status = self.ground.ask("status")
        boxes = {name: module["mailbox"] for name, module in status["modules"].items()}
        counts = self.ground.ask("state", name="decoder")
        alerts = self.ground.file("alerts.jsonl").read_text(encoding="utf-8").splitlines()
        seen = Seen(
            self.ground.ask("state", name="source")["records"],
            {name: counts[name] for name in COUNTS},
            [{key: value for key, value in json.loads(line).items() if key != "at"} for line in alerts],
        )
        return Facts(
            mailboxes={
                name: Mailbox(box["accepted"], box["handled"], box["length"], box["dead"])
                for name, box in boxes.items()
            },
            seen=seen,
            availability=status["availability"],
            decided=len(self.ground.ask("history", limit=1000)),
        )

    def _stop(self, began: float) -> dict[str, Any]:
        code = self.ground.stop_host()
        return {"log": self.ground.log(), "host_exit_code": code, "seconds": time.monotonic() - began}


def _remote_lines(push: Push, tag: str) -> list[str]:
    """What the hooks said of one tag in a push."""
    said = []
    for line in push.said.splitlines():
        tags, _, text = line.removeprefix("remote:").strip().partition(": ")
        if line.startswith("remote:") and tag in tags.split():
            said.append(text)
    return said
