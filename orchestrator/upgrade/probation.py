"""The judge of a probation: what the vital signs of a new release say of it (DESIGN §7.7). Pure: no clock, no I/O.

A breach is said as soon as the limit cannot be kept any more; a pass only once the time is over and enough was measured: too
few messages are never a pass. What the release before did as badly is no breach, but it is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.runtime.figures import Figures, Terms

Word = Literal["watching", "passed", "inconclusive", "breach"]

SLOW_SHARE = 0.01  # what may be slower than a p99
WORSE = 1.25  # than the release before, where that was over the limit too
GREW_LOOKS = 3  # in a row at which a mailbox was no shorter: it is not a burst that is being worked off


@dataclass(frozen=True, slots=True)
class Backlog:
    """The mailbox at a look: how many wait and may, how many did at the least, for how many looks it has not shrunk."""

    length: int = 0
    limit: int = 10_000
    lowest: int = 0
    grew: int = 0

    def after(self, length: int, limit: int) -> Backlog:
        """The mailbox a look later."""
        grew = self.grew + 1 if length >= self.length and length else 0
        return Backlog(length, limit, min(self.lowest, length), grew)


@dataclass(frozen=True, slots=True)
class Signs:
    """All that a module in probation is judged by.

    `unfit`: what its self_test() says against it, `untested`: it has one, which has not come to an end yet.
    """

    terms: Terms
    now: Figures = Figures()  # noqa: RUF009  # a frozen value, as those below
    before: Figures | None = None
    elapsed_s: float = 0.0
    backlog: Backlog = Backlog()
    unfit: str = ""
    untested: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A word, why, and what is to be told beside it."""

    word: Word
    reason: str
    notes: tuple[str, ...] = field(default=())


def judge(signs: Signs) -> Judgement:
    """What is true of one module now."""
    terms, now = signs.terms, signs.now
    breaches, notes = list(_unfit(signs)), []
    for breach, note in (_errors(signs), _slowness(signs), _growth(signs)):
        breaches += [breach] if breach else []
        notes += [note] if note else []
    told = tuple(notes)
    if breaches:
        return Judgement("breach", "; ".join(breaches), told)
    if signs.elapsed_s < terms.seconds:
        return Judgement(
            "watching", f"{figures_text(now)} in {signs.elapsed_s:.0f} of {terms.seconds:g} s", told
        )
    if signs.untested:
        return Judgement("watching", f"{figures_text(now)}; its self_test() has not ended yet", told)
    if now.units < terms.min_messages:
        wanted = f"probation.min_messages = {terms.min_messages} are needed to judge it"
        return Judgement("inconclusive", f"{figures_text(now)}, and {wanted}", told)
    return Judgement("passed", figures_text(now), told)


def together(judgements: Mapping[str, Judgement]) -> Judgement:
    """What is true of all modules of a probation: one that is in breach decides, else one that is still watched."""
    words: tuple[Word, ...] = ("breach", "watching", "inconclusive", "passed")
    word = next(
        word for word in words if word == "passed" or any(j.word == word for j in judgements.values())
    )
    mine = {name: j for name, j in judgements.items() if j.word == word}
    notes = tuple(f"{name}: {note}" for name, j in judgements.items() for note in j.notes)
    return Judgement(word, "; ".join(f"{name}: {j.reason}" for name, j in mine.items()), notes)


def figures_text(now: Figures) -> str:
    """`1203 messages, none failed, p99 0.4 ms`."""
    failed = f"{now.failed} failed" if now.failed else "none failed"
    messages = "1 message" if now.units == 1 else f"{now.units} messages"
    p99 = f", p99 {_ms(now.p99_ms)}" if now.p99_ms is not None else ""
    return f"{messages}, {failed}{p99}" if now.units else "no message"


def _unfit(signs: Signs) -> Iterator[str]:
    """What is a breach whatever the release before did."""
    if signs.unfit:
        yield signs.unfit
    if signs.now.stalls:
        units = "a unit" if signs.now.stalls == 1 else f"{signs.now.stalls} units"
        yield f"{units} did not end within host.stall_s"


def _errors(signs: Signs) -> tuple[str, str]:
    """The breach of the error rate, if it is one, and the note if the release before was as bad."""
    terms, now, before = signs.terms, signs.now, _measured(signs)
    limit = terms.max_error_rate
    if now.failed <= limit * max(terms.min_messages, now.units):
        return "", ""
    text = f"{now.failed} of {now.units} messages failed, over probation.max_error_rate = {limit:g}"
    if before is None or before.error_rate is None:
        return text, ""
    compared = f"{text}; of the release before, {before.failed} of {before.units} did"
    if before.error_rate <= limit:
        return compared, ""
    if now.units < terms.min_messages:  # what few messages say does not tell bad from worse
        return "", ""
    worse = (now.error_rate or 0.0) > before.error_rate * WORSE
    return (compared, "") if worse else ("", compared)


def _slowness(signs: Signs) -> tuple[str, str]:
    """The breach of the p99, if it is one, and the note if the release before was as bad."""
    terms, now, before = signs.terms, signs.now, signs.before
    if now.slow <= SLOW_SHARE * max(terms.min_messages, now.units):
        return "", ""
    limit = f"probation.max_p99_ms = {terms.max_p99_ms:g}"
    text = f"{now.slow} of {now.units} messages took longer than {limit}, p99 {_ms(now.p99_ms)}"
    if before is None or before.p99_ms is None:
        return text, ""
    compared = f"{text}; that of the release before was {_ms(before.p99_ms)}"
    if before.p99_ms <= terms.max_p99_ms:
        return compared, ""
    if now.units < terms.min_messages:
        return "", ""
    worse = (now.p99_ms or 0.0) > before.p99_ms * WORSE
    return (compared, "") if worse else ("", compared)


def _growth(signs: Signs) -> tuple[str, str]:
    """The breach of a mailbox that fills up because the handlers are slower; the note if it is that more is sent."""
    mailbox, now, before = signs.backlog, signs.now.p50_ms, _measured(signs)
    filled = mailbox.length > mailbox.limit / 2 and mailbox.length >= 2 * mailbox.lowest
    if not filled or mailbox.grew < GREW_LOOKS:
        return "", ""
    text = (
        f"{mailbox.length} messages wait and the mailbox grows; it holds limits.mailbox_messages = {mailbox.limit}, and "
        f"{mailbox.lowest} waited when it was shortest"
    )
    if before is None or before.p50_ms is None or now is None:
        return text, ""
    compared = f"{text}; a message takes {_ms(now)}, and took the release before {_ms(before.p50_ms)}"
    return (compared, "") if now > before.p50_ms * WORSE else ("", compared)


def _measured(signs: Signs) -> Figures | None:
    """The release before, if it handled enough to be compared with."""
    before = signs.before
    return before if before is not None and before.units >= max(signs.terms.min_messages, 1) else None


def _ms(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
