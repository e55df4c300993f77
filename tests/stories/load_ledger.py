"""The ledger of the load story: what every producer gave is handled, or dead with a reason, or was never accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.stories.deployment import Deployment, Facts, wait_until
from tests.stories.load_modules import LANES, RELAYS
from tests.stories.outside import Asker, Caller, Pulse, West

DRAIN_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """The figures of a run. `lost` and what follows must be 0."""

    messages: int
    dead: int
    doubtful: int
    lost: int
    doubled: int
    reordered: int
    mixed: int
    corrupt: int
    unexplained: Sequence[str]


def settle(deployment: Deployment, callers: tuple[West, Pulse, Asker], toils: int) -> Outcome:
    """Close all producers, wait until nothing moves, and draw the balance."""
    for caller in callers:
        caller.close()
        assert not caller.broken, caller.broken
    for name in LANES:
        deployment.ask(name, "close")
    report = _at_rest(deployment)
    west, pulse, asker = callers
    given, corrupt = _given(deployment, west, pulse, toils)
    letters = deployment.call("dead_letters", action="list")
    dead = _dead(letters)
    doubtful = _doubtful(west, pulse)
    lost, doubled = 0, report["twice"]
    for lane in {*given, *report["lanes"]}:
        following, handled = report["lanes"].get(lane, (0, 0))
        gone = set(report["missing"].get(lane, ())) | set(range(following, given.get(lane, 0)))
        doubled += len(dead.get(lane, set()) - gone)  # handled, and in the dead letters
        lost += len(gone - dead.get(lane, set()) - doubtful.get(lane, set()))
        assert following <= given.get(lane, 0), f"{lane}: more was handled than given"
        assert handled == following - len(report["missing"].get(lane, ())), lane
    seen, odd = deployment.ask("spare", "seen")
    assert (seen, odd) == (asker.next, 0)
    fatal = {("west", n) for n in west.fatal}
    assert {(lane, n) for lane, numbers in dead.items() for n in numbers} == fatal, (
        "a unit failed that nobody told to"
    )
    return Outcome(
        messages=sum(handled for _, handled in report["lanes"].values()) + seen,
        dead=len(letters),
        doubtful=sum(len(c.doubtful) for c in (west, pulse)),
        lost=lost,
        doubled=doubled,
        reordered=report["reordered"],
        mixed=report["mixed"],
        corrupt=report["odd"] + corrupt,
        unexplained=_unexplained(deployment.status()["modules"]),
    )


def handled(deployment: Deployment) -> int:
    """How many messages the sink has handled."""
    return int(deployment.status()["modules"]["sink"]["mailbox"]["handled"])


def _given(deployment: Deployment, west: West, pulse: Pulse, toils: int) -> tuple[Counter[str], int]:
    """How many each lane has given, and what the modules on the way found corrupt."""
    given: Counter[str] = Counter({"west": west.next, "toil.left": toils})
    given.update(dict.fromkeys(pulse.lanes, pulse.next))
    corrupt = 0
    for name in LANES:
        sent, odd = deployment.ask(name, "sent")
        given.update({f"{name}.{via}": sent for via in RELAYS})
        corrupt += odd
    return given, corrupt + sum(deployment.ask(name, "odd") for name in RELAYS)


def _doubtful(*callers: Caller) -> Mapping[str, set[int]]:
    return {lane: set(caller.doubtful) for caller in callers for lane in caller.lanes}


def _dead(letters: Sequence[Facts]) -> Mapping[str, set[int]]:
    """The numbers in the dead letters, by lane; each has a reason."""
    found: dict[str, set[int]] = {}
    for letter in letters:
        assert letter["type"] == "note", letter
        assert letter["reason"], letter
        numbers = found.setdefault(letter["body"]["lane"], set())
        assert letter["body"]["n"] not in numbers, "twice in the dead letters"
        numbers.add(letter["body"]["n"])
    return found


def _unexplained(modules: Mapping[str, Any]) -> list[str]:
    """Modules whose mailbox does not balance: accepted = handled + dead + waiting."""
    boxes = {
        name: row["mailbox"] for name, row in modules.items() if name not in LANES
    }  # their intakes go on
    return [f"{n}: {b}" for n, b in boxes.items() if b["accepted"] != b["handled"] + b["dead"] + b["length"]]


def _at_rest(deployment: Deployment) -> Mapping[str, Any]:
    """The sink's report once nothing waits and it stands still."""
    reports: list[Mapping[str, Any]] = []

    def stands_still() -> bool:
        modules = deployment.status()["modules"]
        reports.append(deployment.ask("sink", "report"))
        waits = [name for name in ("sink", *RELAYS) if modules[name]["mailbox"]["length"]]
        return not waits and reports[-3:-1] == [reports[-1]] * 2

    wait_until(stands_still, "all mailboxes are empty", DRAIN_S)
    return reports[-1]


def told(outcome: Outcome, history: Sequence[Facts], faults: Counter[str], seed: int, seconds: float) -> str:
    """Say the run's figures."""
    switches = [txn for txn in history if txn["pause_us"]]
    held = sorted(txn["held_messages"] for txn in switches)
    pauses = sorted(txn["pause_us"] for txn in switches)
    ends = Counter(txn["outcome"] for txn in history)
    return (
        f"seed {seed}: {outcome.messages} messages through {ends['committed']} committed and {ends['rolled_back']} "
        f"undone transactions in {seconds:.0f} s\n"
        f"  lost {outcome.lost}, doubled {outcome.doubled}, reordered {outcome.reordered}, mixed views {outcome.mixed}, "
        f"corrupt {outcome.corrupt}; dead letters {outcome.dead} (all told to fail), in doubt {outcome.doubtful}\n"
        f"  in flight at a switch: min {held[0]}, median {_at(held, 0.5)}, max {held[-1]}; "
        f"pause p50 {_at(pauses, 0.5):.0f} µs, p99 {_at(pauses, 0.99):.0f} µs, max {pauses[-1]:.0f} µs\n"
        f"  {', '.join(f'{kind} {count}' for kind, count in sorted(faults.items()))}"
    )


def _at(values: Sequence[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))]
