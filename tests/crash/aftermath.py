"""What must hold after a death: all old or all new, as the journal says, and nothing else wrong with the deployment.

A death leaves a deployment directory. Its journal says what served and which states a clean stop had saved; two starts
have to give just that, leave no litter, have Git say the same, and leave `livetag doctor` nothing to complain of.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from orchestrator.control.doctor.examine import examine
from orchestrator.control.selftest.checks import derived_equals_journal, litter
from orchestrator.runtime.message import decode_message
from orchestrator.upgrade.image import LETTERS
from orchestrator.upgrade.journal import Journal, ModuleImage
from orchestrator.upgrade.ledger import fold
from tests.crash.victim import TRAP, Scenario, Served, Victim
from tests.stories.deployment import wait_until

Told = dict[str, Any]  # the state of a voice: JSON
UNTOLD: Told = {"asked": 0, "notes": []}


@dataclass(frozen=True)
class Left:
    """What a dead host has left in its journal.

    `owed` is what each module is to be given at the next start, once: its state, and the messages that waited for it.
    """

    table: Served
    owed: Mapping[str, Told] = field(default_factory=dict)
    letters: int = 0


def left_by(victim: Victim) -> Left:
    """Read the journal of a dead host."""
    journal = Journal.open(victim.place.journal, time.time)
    try:
        images = journal.load_images()
        ledger = fold(journal.records())
    finally:
        journal.close()
    letters = images.pop(LETTERS, None)
    owed = {name: _given_back(image) for name, image in images.items()}
    return Left(
        victim.table_of(ledger),
        owed,
        len(msgspec.msgpack.decode(letters.state)) if letters is not None else 0,
    )


def _given_back(image: ModuleImage) -> Told:
    """The state of a voice once it has handled what waited for it."""
    state: Told = {**UNTOLD, **msgspec.msgpack.decode(image.state)}
    waited = [decode_message(data) for data in image.mailbox]
    notes = [message.body["number"] for message in waited if isinstance(message.body, dict)]
    return {**state, "notes": [*state["notes"], *notes]}


def check(victim: Victim, scenario: Scenario) -> str:
    """All that must hold after a death: returns "old" or "new"."""
    victim.calm()
    (victim.path / TRAP).unlink(
        missing_ok=True
    )  # what was bad of a release is good again: it is about the deaths now
    left = left_by(victim)
    assert left.table in (scenario.old, scenario.new), f"mixed on disk: {left.table}"
    side = "new" if left.table == scenario.new else "old"
    _ask_for_nothing(victim, scenario.tags if side == "old" else scenario.beyond)
    stood: list[tuple[int, str]] = []
    for start in (1, 2):
        half_done = litter(victim)
        victim.start()
        # Not what is staged in this moment: tags that are there still are acted on.
        assert not set(half_done).intersection(litter(victim)), f"start {start}"
        _refuses(victim, scenario)
        _given_once(victim, left if start == 1 else None)
        table = left.table
        if scenario.before is not None and victim.status()["quarantine"]:
            table = scenario.before
            wait_until(lambda: victim.serves() == scenario.before, "it goes back to what served before")
        assert victim.serves() == table, f"start {start}: {victim.said()[-2000:]}"
        wait_until(lambda: derived_equals_journal(victim), f"start {start}: Git says what the journal says")
        status = victim.status()
        assert status["transaction"] is None
        assert scenario.quarantines or scenario.before is not None or status["quarantine"] == []
        history = [(row["id"], _told(row["outcome"], scenario)) for row in reversed(victim.history())]
        assert history[: len(stood)] == stood, "a second start makes nothing of the past another"
        # It may come to see that what serves has another tag now: the first was killed before it did. What dies twice in
        # its probation goes back.
        more = {"unchanged", "committed"} if scenario.in_probation else {"unchanged"}
        assert start == 1 or {outcome for _, outcome in history[len(stood) :]} <= more
        stood = history
        if start == 1:
            victim.kill()
    victim.go_further(scenario.further)
    wait_until(lambda: derived_equals_journal(victim), "Git says it too")
    assert victim.stop() == 0
    assert litter(victim) == []
    assert wrong(victim) == [], victim.said()[-2000:]
    return side


def _told(outcome: str, scenario: Scenario) -> str:
    return "committed" if scenario.in_probation and outcome == "reverted" else outcome


def _ask_for_nothing(victim: Victim, tags: tuple[str, ...]) -> None:
    """Delete what asks for more than what the journal says, so that this is seen to serve."""
    present = set(victim.tags())
    gone = [tag for tag in tags if tag in present]
    if gone:
        victim.git("tag", "-d", *gone)


def _refuses(victim: Victim, scenario: Scenario) -> None:
    """See that a release which never may serve is tried again where its tag is there still, and ends in quarantine."""
    if scenario.old == scenario.new:
        unfit = set(scenario.tags).intersection(victim.tags())
        wait_until(
            lambda: unfit <= {row["tag"] for row in victim.status()["quarantine"]},
            f"{sorted(unfit)} in quarantine",
        )


def _given_once(victim: Victim, left: Left | None) -> None:
    """See that each module has what the clean stop saved for it; without `left`, that none has it a second time."""
    status = victim.status()
    for name in status["modules"]:
        told = {**UNTOLD, **victim.ask(name, "told")}
        assert told == (left.owed.get(name, UNTOLD) if left is not None else UNTOLD), name
    assert status["dead_letters"] == (left.letters if left is not None else 0)


def wrong(victim: Victim) -> list[str]:
    """What `livetag doctor` complains of."""
    return [f"{each.check}: {each.what}" for each in examine(victim.place).findings if not each.ok]
