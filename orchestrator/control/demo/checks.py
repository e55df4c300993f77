"""What must hold after a demo: small pure functions from the facts to a complaint, or to None."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.control.demo.facts import Facts

AVAILABILITY_MIN = 0.99  # of some ten seconds: a tenth of a second for all pauses together
PAUSE_US_MAX = 50_000.0  # limits.pause_ms of the sample: its default
SECONDS_MAX = 60.0

Check = Callable[[Facts], str | None]


@dataclass(frozen=True, slots=True)
class Checked:
    what: str
    ok: bool
    why: str


def good_pushes_went_live(facts: Facts) -> str | None:
    good = [step for step in facts.steps if step.good]
    for step in good:
        if step.exit_code or step.after != step.expected or not step.tag_stays:
            return f"{step.tag}: git push ended with {step.exit_code}, {step.module} is {step.after}. {step.reason}"
    return None if good else "no upgrade was pushed"


def broken_push_was_refused(facts: Facts) -> str | None:
    broken = [step for step in facts.steps if not step.good]
    for step in broken:
        if not step.exit_code or step.tag_stays or step.after != step.before:
            stays = "stays" if step.tag_stays else "is gone"
            return f"{step.tag}: git push ended with {step.exit_code}, the tag {stays}, {step.module} is {step.after}"
    return None if broken else "no broken version was pushed"


def messages_flowed_meanwhile(facts: Facts) -> str | None:
    for step in facts.steps:  # the first one, which adds the modules, has nothing to flow before it
        if step.before is not None and (step.handled_after <= step.handled_before or step.feed_ended):
            return f"{step.tag}: the feed stood still or was over, so this upgrade shows nothing"
    return None


def nothing_was_lost(facts: Facts) -> str | None:
    for name, box in facts.mailboxes.items():
        if box.lost or box.dead or box.waiting:
            return f"{name}: accepted {box.accepted}, handled {box.handled}, dead {box.dead}, waiting {box.waiting}"
    return None if facts.mailboxes else "no module is in service"


def every_record_went_through_once(facts: Facts) -> str | None:
    if facts.seen.records == facts.expected.records > 0:
        return None
    return f"the feed has {facts.expected.records} records, the source passed on {facts.seen.records}"


def counts_are_those_of_the_feed(facts: Facts) -> str | None:
    if facts.expected.counts and facts.seen.counts == facts.expected.counts:
        return None
    return f"expected {dict(facts.expected.counts)}, the decoder counted {dict(facts.seen.counts)}"


def alerts_are_those_of_a_run_without_upgrades(facts: Facts) -> str | None:
    if list(facts.seen.alerts) == list(facts.expected.alerts):
        return None
    return f"expected {len(facts.expected.alerts)} alerts, found {len(facts.seen.alerts)} or others"


def pauses_were_short(facts: Facts) -> str | None:
    worst = max(facts.steps, key=lambda step: step.pause_us, default=None)
    if worst is None or worst.pause_us <= PAUSE_US_MAX:
        return None
    return f"{worst.tag} paused {worst.module} for {worst.pause_us / 1000:.1f} ms"


def service_was_available(facts: Facts) -> str | None:
    return None if facts.availability >= AVAILABILITY_MIN else f"availability {facts.availability:.6f}"


def git_log_tells_every_deployment(facts: Facts) -> str | None:
    if facts.decided and len(facts.log) == facts.decided:
        return None
    return f"{facts.decided} transactions were decided, git log deployments has {len(facts.log)}"


def host_stopped_cleanly(facts: Facts) -> str | None:
    return None if facts.host_exit_code == 0 else f"the host ended with {facts.host_exit_code}"


def it_took_at_most_a_minute(facts: Facts) -> str | None:
    return None if facts.seconds <= SECONDS_MAX else f"it took {facts.seconds:.0f} s"


CHECKS: tuple[Check, ...] = (
    good_pushes_went_live,
    broken_push_was_refused,
    messages_flowed_meanwhile,
    nothing_was_lost,
    every_record_went_through_once,
    counts_are_those_of_the_feed,
    alerts_are_those_of_a_run_without_upgrades,
    pauses_were_short,
    service_was_available,
    git_log_tells_every_deployment,
    host_stopped_cleanly,
    it_took_at_most_a_minute,
)


def check(facts: Facts) -> list[Checked]:
    """Apply every check; a check's name says what holds."""
    answers = [(one.__name__.replace("_", " "), one(facts)) for one in CHECKS]
    return [Checked(what, why is None, why or "") for what, why in answers]
