"""Figures 13, 14 and 16: the tags of a store, and what is durable."""

from __future__ import annotations

from tests.benchmarks.harness import Bench, Row, Side, Values

LATE_NS = 100e6
PUSHES_S = 120  # a slow machine makes fewer
SENDERS = 64


def _tags(bench: Bench) -> Side:
    return bench.ours("tags", str(bench.scratch("tags")))


def figure_13(bench: Bench) -> list[Row]:
    """A pushed tag that no hook tells of is noticed by the file monitor."""
    count = bench.size(1_000, 3)
    found = bench.in_turn(1, {"ours": lambda: _tags(bench).measure(f"pushes {count} {PUSHES_S}")})["ours"]
    noticed, pushed = found.lists.get("noticed", []), found.lists.get("push", [])
    late = sum(n - p > LATE_NS for n, p in zip(noticed, pushed, strict=True))
    said = f"of {len(pushed)} pushes, noticed over 100 ms after their end"
    return [
        Row(
            13,
            found.of("noticed", "tag noticed, from the push's start"),
            found.of("push", "the push"),
            aim=0.96,
            unit="ms",
        ),
        Row(13, Values(said, [] if found.missing else [float(late)], found.missing), None, aim=0, unit=""),
    ]


def figure_14(bench: Bench) -> list[Row]:
    """Looking for news among many tags."""
    tags, count = bench.size(50_000, 200), bench.size(2, 1)

    def filled() -> Side:
        return bench.once(_tags(bench), f"fill {tags}")

    found = bench.in_turn(
        bench.size(6, 1),
        {
            "ours": lambda: filled().measure(f"refs {count}"),
            "git": lambda: filled().measure(f"for_each_ref {count}"),
            "unmoved": lambda: filled().measure(f"unmoved {count}"),
        },
    )
    git = found["git"].of("look", "git for-each-ref")
    return [
        Row(14, found["ours"].of("look", f"all of {tags} tags read"), git, aim=0.4, unit="ms"),
        Row(14, found["unmoved"].of("look", "a look when nothing changed"), git, unit="ms"),
        Row(14, found["unmoved"].of("stats", "calls of stat for that look"), None, aim=1, unit=""),
    ]


def figure_16(bench: Bench) -> list[Row]:
    """A durable message from many senders who each wait for the disk, beside one commit of SQLite."""
    each, commits, chain = bench.size(40, 2), bench.size(60, 5), bench.size(5_000, 100)

    def ours() -> Side:
        return bench.ours("durable", str(bench.scratch("durable")), "host")

    found = bench.in_turn(
        bench.size(7, 1),
        {
            "commit": lambda: ours().measure(f"commits {commits}"),
            "message": lambda: ours().measure(f"messages {SENDERS} {each}"),
            "chain": lambda: ours().measure(f"chain {chain}"),
        },
    )
    commit = found["commit"].of("commit", "one SQLite commit, WAL, full sync")
    message = found["message"].of("message", f"durable message, {SENDERS} senders")
    through = found["chain"].of("message", "durable message through two durable modules")
    return [Row(16, message, commit, aim=0.1), Row(16, through, commit)]
