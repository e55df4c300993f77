"""What must hold after a death: all old or all new, as the journal says, however often it is started again."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.control.selftest.errors import Broken, wait_until
from orchestrator.control.selftest.scenario import S, Scenario
from orchestrator.control.selftest.scratch import SAID_MAX, Scratch, Served


def check(subject: S, scenario: Scenario[S]) -> str:
    """All that must hold after a death: returns "old" or "new". Raises Broken."""
    subject.calm()
    table = subject.table_of(subject.ledger())
    if table not in (scenario.old, scenario.new):
        either = f"all old ({shown(scenario.old)}) or all new ({shown(scenario.new)})"
        raise Broken(f"in the journal, {either}", f"mixed on disk: {shown(table)}")
    side = "new" if table == scenario.new else "old"
    images = subject.images()
    if side == "old":
        present = [tag for tag in scenario.tags if tag in subject.tags()]
        if present:
            subject.git("tag", "-d", *present)  # nothing asks for the new any more: the old is seen to serve
    stood: list[object] = []
    for start in (1, 2):
        left = litter(subject)
        subject.start()
        unswept = set(left).intersection(litter(subject))
        if unswept:
            raise Broken(
                f"start {start} after the death sweeps what it left half done", ", ".join(sorted(unswept))
            )
        table = _same_after_start(subject, scenario, table, start)
        stood.append(_standing(subject))
        if start == 1:
            subject.remembers(images)  # those that the death has left unused
            subject.kill()
    if stood[0] != stood[1]:
        raise Broken(f"a second start gives the same as the first: {stood[0]}", f"{stood[1]}")
    subject.go_further(scenario.further)
    code = subject.stop()
    if code != 0:
        raise Broken("the host stops cleanly in the end", f"exit code {code}: {_last_words(subject)}")
    left = litter(subject)
    if left:
        raise Broken("in the end nothing half done is left", ", ".join(left))
    return side


def _same_after_start(subject: S, scenario: Scenario[S], table: Served, start: int) -> Served:
    """See that this start serves what the journal says; returns that, which a quarantine may have changed."""
    before = scenario.before
    if before is not None and subject.status()["quarantine"]:
        table = before
        wait_until(lambda: subject.serves() == before, "it goes back to what served before")
    serving = subject.serves()
    if serving != table:
        said = f"{shown(serving)}. The host said: {_last_words(subject)}"
        raise Broken(f"start {start} after the death serves what the journal says: {shown(table)}", said)
    wait_until(lambda: derived_equals_journal(subject), f"start {start}: Git says what the journal says")
    under_way = subject.status()["transaction"]
    if under_way is not None:
        raise Broken(f"start {start} after the death leaves no transaction under way", f"{under_way}")
    return table


def _standing(subject: Scratch) -> object:
    """Quarantine and outcomes, which a start more must not change."""
    quarantine = [(row["module"], row["commit"]) for row in subject.status()["quarantine"]]
    return quarantine, [(row["id"], row["outcome"]) for row in subject.history()]


def litter(subject: Scratch) -> list[str]:
    """What a death has left half done, or a host that runs is doing now: a start sweeps it, a clean stop leaves none."""
    places = ((subject.place.stage, ".tmp-*"), (subject.path, ".control-*"))
    return [str(path) for folder, pattern in places for path in folder.glob(pattern)]


def derived_equals_journal(subject: Scratch) -> bool:
    """Whether `git log deployments` and refs/live/* are what the journal says."""
    told = [_as_decided(row["outcome"]) for row in reversed(subject.history())]
    if told != [_as_decided(row["Outcome"][0]) for row in subject.deployments()]:
        return False
    rows = subject.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/live").splitlines()
    live = dict(row.split(" ", 1) for row in rows)
    modules: Mapping[str, Mapping[str, str]] = subject.status()["modules"]
    return live == {name: row["commit"] for name, row in modules.items()}


def _as_decided(outcome: str) -> str:
    """That a transaction was put back is told of it afterwards, and in Git by the transaction that has put it back."""
    return outcome.replace("reverted", "committed")


def shown(served: Mapping[str, str]) -> str:
    """What serves, as one line."""
    return ", ".join(f"{name} {what}" for name, what in sorted(served.items())) or "nothing"


def _last_words(subject: Scratch) -> str:
    return subject.said()[-SAID_MAX:].strip()
