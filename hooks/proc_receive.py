"""proc-receive: writes the tags of a push, waits for what the host makes of them, and says it (DESIGN §9).

What holds, whatever happens meanwhile:
1. The tags of one push appear in one ref transaction, or none of them does.
2. A tag that the host refused is taken back, but only if it is still what this push made it.
3. A tag of which nothing is known (no host, connection lost, deadline) stays; quarantine does that work.
4. The pusher may hang up at any time; the hook then goes on silently, so that 2 holds for him too.
"""

import contextlib
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from hooks.pkt import ProtocolError
from hooks.protocol import Push, Result, read_push, write_results
from hooks.push import (
    NO_WAIT,
    PLAN,
    TAGS,
    WAIT_CONFIRMED,
    Command,
    NotRunByGit,
    Place,
    options_problem,
    pusher,
    say,
)
from orchestrator.control.client import ControlError, HostAbsent, HostForbidden, HostRefused, HostSlow, call
from orchestrator.control.printable import printable
from repo_store.errors import RefChanged, StoreError
from repo_store.git import GitDoor
from repo_store.refs import RefChange, update_refs
from repo_store.release import parse_tag

WAIT_S = 30.0
CONFIRMED_WAIT_S = 600.0
PLAN_WAIT_S = 300.0  # it is for a person who waits for it, and tries every release out
NO_WAIT_S = 3.0
ANNOUNCE_S = 1.0
REASON_CHARS_MAX = 400
IGNORED = (
    "ignored: not a release tag, so it is stored and nothing is deployed from it. "
    "Release tags are <package>/v<X.Y.Z>, e.g. counter/v1.2.0"
)
TAKEN_BACK = "refused, tag taken back"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the host says about one tag: a word of its own, and the sentence that explains it."""

    word: str
    text: str

    @property
    def refused(self) -> bool:
        return self.word == "refused"


Verdicts = Mapping[str, Verdict]


def main(stream: BinaryIO, out: BinaryIO, environ: Mapping[str, str]) -> int:
    """Run the whole conversation; the exit code is 0 whenever every ref got its own answer."""
    for interrupt in (signal.SIGINT, signal.SIGHUP):
        signal.signal(interrupt, signal.SIG_IGN)  # Ctrl-C at a local push reaches us too; see 4.
    try:
        push = read_push(stream, out)
        place = Place.of(environ)
    except (ProtocolError, EOFError, NotRunByGit) as error:
        say(f"livetag: {error}. Nothing was changed.")
        return 1
    results = receive(push, place, pusher(environ))
    with contextlib.suppress(OSError):
        write_results(out, results)
    return 0


def receive(push: Push, place: Place, who: str) -> list[Result]:
    """Do what the push asks; return what became of each ref."""
    problem = options_problem(push.options)  # pre-receive has said it already, unless it is not installed
    if problem is not None:
        say(problem)
        return [Result(command.ref, problem) for command in push.commands]
    if PLAN in push.options:
        return _plan(push, place, who)
    _announce(push, place, who)
    with GitDoor(place.store) as door:
        try:
            update_refs(door, [_change(each) for each in push.commands if each.old or each.new], "push")
        except StoreError as error:
            return _not_written(push.commands, error)
        verdicts = _judged(push, place, who)
        _tell(push.commands, verdicts)
        return _settled(door, push, verdicts)


def _plan(push: Push, place: Place, who: str) -> list[Result]:
    """Show what would be done. No ref is written, so to Git each of them was not taken."""
    verdicts = _judged(push, place, who)
    _tell(push.commands, verdicts)
    return [Result(command.ref, "plan only, nothing was changed") for command in push.commands]


def _not_written(commands: Sequence[Command], error: StoreError) -> list[Result]:
    say(f"No tag was written: {error}")
    if isinstance(error, RefChanged):
        reason = "another push was faster; fetch the tags and push again"
    else:
        reason = "git could not write it, see above"
    return [Result(command.ref, reason) for command in commands]


def _change(command: Command) -> RefChange:
    return RefChange(command.ref, command.new, command.old)


def _judged(push: Push, place: Place, who: str) -> Verdicts:
    """Ask the host about the release tags of the push; each gets a verdict, whatever becomes of the host."""
    releases = _releases(push)
    judged = {each.tag_name for each in releases}
    verdicts = {name: Verdict("", IGNORED) for each in push.commands if (name := each.tag_name) not in judged}
    if not releases:
        return verdicts
    wait_s = _wait_s(push.options)
    try:
        answer = call(
            place.socket,
            "push",
            on_event=_show_event,
            timeout_s=wait_s,
            changes=[{"ref": each.ref, "old": each.old, "new": each.new} for each in releases],
            options=list(push.options),
            who=who,
        )
    except ControlError as error:
        unknown = _unknown(error, wait_s, planning=PLAN in push.options)
        return verdicts | {each.tag_name: unknown for each in releases}
    said = _verdicts(answer)
    silence = Verdict("", "the host said nothing about this tag; see `livetag status`")
    return verdicts | {each.tag_name: said.get(each.tag_name, silence) for each in releases}


def _releases(push: Push) -> list[Command]:
    """Its tags from which something is deployed."""
    return [command for command in push.commands if parse_tag(command.tag_name) is not None]


def _announce(push: Push, place: Place, who: str) -> None:
    """Say who is about to write these tags: the host may see them before it can be asked what becomes of them."""
    releases = _releases(push)
    if not releases:
        return
    with contextlib.suppress(
        ControlError
    ):  # then the record says nothing of whom, as for a tag made beside the hooks
        call(
            place.socket,
            "pushing",
            timeout_s=ANNOUNCE_S,
            changes=[{"ref": each.ref, "old": each.old, "new": each.new} for each in releases],
            who=who,
        )


def _wait_s(options: Sequence[str]) -> float:
    if NO_WAIT in options:
        return NO_WAIT_S
    if PLAN in options:
        return PLAN_WAIT_S
    return CONFIRMED_WAIT_S if WAIT_CONFIRMED in options else WAIT_S


def _unknown(error: ControlError, waited_s: float, *, planning: bool) -> Verdict:
    """Say what is known when the host gave no verdict. The tag stays (3.)."""
    if planning:
        return Verdict("no plan", f"{error}. Nothing was changed")
    if isinstance(error, HostForbidden):
        return Verdict(
            "stored",
            f"the outcome is not known here, because {error}. Ask the host's owner for membership of the "
            "control group; `livetag history` shows the outcome",
        )
    if isinstance(error, HostAbsent):
        return Verdict("recorded", "no host is running; it is acted on at the next start (`livetag run`)")
    if isinstance(error, HostSlow):
        return Verdict(
            "still under way", f"no outcome after {waited_s:g} s, the tag stays; see `livetag history`"
        )
    if isinstance(error, HostRefused):
        return Verdict("stored", f"the host could not answer: {error}. The tag stays; see `livetag status`")
    return Verdict(
        "stored",
        f"the outcome is not known: {error}. The tag stays, and a host that runs acts on it (`livetag run`)",
    )


def _show_event(event: Mapping[str, object]) -> None:
    parts = [str(event[key]) for key in ("tag", "phase", "text") if event.get(key)]
    if parts:
        say(": ".join(parts))


def _verdicts(answer: object) -> dict[str, Verdict]:
    """Read {"tags": [{"tag", "verdict", "text"}]}; what has another shape counts as not said."""
    rows = answer.get("tags") if isinstance(answer, dict) else None
    return {
        row["tag"]: Verdict(str(row.get("verdict", "")), str(row.get("text", "")))
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and isinstance(row.get("tag"), str)
    }


def _tell(commands: Sequence[Command], verdicts: Verdicts) -> None:
    """Print the one outcome line of each tag; further lines of a text are indented under it."""
    for command in commands:
        verdict = verdicts[command.tag_name]
        words = TAKEN_BACK if verdict.refused else verdict.word
        text = verdict.text.strip().replace("\n", "\n    ")
        say(": ".join(part for part in (command.tag_name, words, text) if part))


def _settled(door: GitDoor, push: Push, verdicts: Verdicts) -> list[Result]:
    """Take back what was refused (2.), in an atomic push everything."""
    refused = [command for command in push.commands if verdicts[command.tag_name].refused]
    if not refused:
        return [Result(command.ref) for command in push.commands]
    back = list(push.commands) if push.atomic else refused
    if len(back) > len(refused):
        say(
            "This push was atomic: its other tags are taken back too, and the host returns to what they were."
        )
    _take_back(door, [RefChange(each.ref, each.old, each.new) for each in back if each.old or each.new])
    return [_result(command, command in back, verdicts[command.tag_name]) for command in push.commands]


def _result(command: Command, taken_back: bool, verdict: Verdict) -> Result:
    if not taken_back:
        return Result(command.ref)
    if not verdict.refused:
        return Result(command.ref, "another tag of this atomic push was refused")
    first = printable(verdict.text.strip().partition("\n")[0])
    return Result(command.ref, first if len(first) <= REASON_CHARS_MAX else first[:REASON_CHARS_MAX] + "...")


def _take_back(door: GitDoor, changes: Sequence[RefChange]) -> None:
    """Undo the changes in one transaction; if somebody moved one of them since, undo the others one by one."""
    try:
        update_refs(door, changes, "refused")
    except RefChanged:
        for change in changes:
            _take_one_back(door, change)
    except StoreError as error:
        say(f"The refused tags could not be taken back: {error} Delete them: git push --delete REMOTE TAG.")


def _take_one_back(door: GitDoor, change: RefChange) -> None:
    name = change.ref.removeprefix(TAGS)
    try:
        update_refs(door, [change], "refused")
    except RefChanged:
        say(f"{name}: moved by somebody else meanwhile; left as it is now.")
    except StoreError as error:
        say(f"{name}: could not be taken back: {error}")
