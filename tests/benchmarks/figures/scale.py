"""Figure 18: what one module costs where there are many of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from tests.benchmarks.harness import Bench, Found, Row, Values
from tests.benchmarks.peers.answer import Measured

FEW = 10


def figure_18(bench: Bench) -> list[Row]:
    many = bench.size(1_000, 20)
    counts = (0, FEW, many)
    started = bench.in_turn(bench.size(7, 1), {str(n): _started(bench, n) for n in counts})
    idle = bench.in_turn(bench.size(3, 1), {str(n): _messages(bench, f"memory {n}") for n in counts})
    published = bench.in_turn(
        bench.size(9, 1),
        {str(n): _messages(bench, f"publish {n} 1 {bench.size(20_000, 200) // n}") for n in (FEW, many)},
    )
    return [
        _per_module(started, "start", "start of a host, per module", many, "ms"),
        _per_module(idle, "memory", "memory of an idle module", many, "kB"),
        Row(
            18,
            published[str(many)].of("publish", f"one publish to {many}, per delivery"),
            published[str(FEW)].of("publish", f"one publish to {FEW}, per delivery"),
            aim=1.3,
        ),
    ]


def _messages(bench: Bench, what: str) -> Callable[[], Measured]:
    return lambda: bench.ours("messages", "host").measure(what)


def _started(bench: Bench, modules: int) -> Callable[[], Measured]:
    """A start of few is soon over, and is repeated: half a second of each in a round."""
    times = 1 if bench.quick or modules > 100 else 10

    def start() -> Measured:
        side = bench.ours("starts", str(bench.scratch("starts")), "host")
        each: Sequence[float] = [side.measure(f"start {modules}")["start"][0] for _ in range(times)]
        return {"start": list(each)}

    return start


def _per_module(found: dict[str, Found], name: str, what: str, many: int, unit: str) -> Row:
    """What each of many costs beside each of a few; what there is without any is taken off both."""
    nothing = median(found["0"].lists[name])

    def each(count: int) -> Values:
        values = [(value - nothing) / count for value in found[str(count)].lists[name]]
        return Values(f"{what}, {count} modules", values)

    return Row(18, each(many), each(FEW), aim=1.3, unit=unit)
