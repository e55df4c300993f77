"""Figure 18: what one module costs where there are many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter_ns

from tests.benchmarks.harness import Bench, Found, Row, Values
from tests.benchmarks.peers.answer import Measured
from tests.stories.deployment import Deployment, deployed, wait_until

FEW = 10
MODULE = """
    from livetag import Module, handles, subscribes

    class Counter(Module):
        def initial_state(self):
            return {"total": 0}

        @handles
        def tick(self) -> int:
            self.state["total"] += 1
            return self.state["total"]

        @subscribes("news")
        def on_news(self, n: int) -> None:
            self.state["total"] += n
"""


def figure_18(bench: Bench) -> list[Row]:
    many = bench.size(1_000, 20)
    started = _starts(bench, many)
    idle = bench.in_turn(bench.size(3, 1), {str(n): _messages(bench, f"memory {n}") for n in (0, FEW, many)})
    published = bench.in_turn(
        bench.size(9, 2),
        {
            str(n): _messages(bench, f"publish {n} {bench.size(2_000, 200) // n} {bench.size(10, 1)}")
            for n in (FEW, many)
        },
    )
    return [
        _per_module(started, "start", "start of a host, per module", many, "ms"),
        _per_module(idle, "memory", "memory of an idle module", many, "kB"),
        Row(
            18,
            published[str(many)].of("publish", f"publish to {many}, per delivery"),
            published[str(FEW)].of("publish", f"publish to {FEW}"),
            aim=1.3,
        ),
    ]


def _messages(bench: Bench, what: str) -> Callable[[], Measured]:
    return lambda: bench.ours("messages", "uvloop").measure(what)


def _per_module(found: dict[str, Found], name: str, what: str, many: int, unit: str) -> Row:
    """What each of many costs beside each of a few; what a host costs without any is taken off both."""
    nothing = median(found["0"].lists[name])

    def each(count: int) -> Values:
        values = [(value - nothing) / count for value in found[str(count)].lists[name]]
        return Values(f"{what}, {count} modules", values)

    return Row(18, each(many), each(FEW), aim=1.3, unit=unit)


def _starts(bench: Bench, many: int) -> dict[str, Found]:
    """Real hosts of none, a few and many modules of one package, started in turn, until they answer."""
    with ExitStack() as life:
        hosts = {count: life.enter_context(_host(bench, count)) for count in (0, FEW, many)}
        return bench.in_turn(
            bench.size(7, 1),
            {str(count): (lambda host=host: _start(host)) for count, host in hosts.items()},  # type: ignore[misc]
        )


@contextmanager
def _host(bench: Bench, count: int) -> Iterator[Deployment]:
    """A deployment with so many modules in service, whose host is stopped."""
    with deployed(bench.scratch(f"host-{count}")) as deployment:
        if count:
            composition = "".join(f'[modules.m{n}]\npackage = "counter"\n' for n in range(count))
            deployment.work.write("app.toml", f'[app]\nname = "many"\n{composition}')
            deployment.write("counter", MODULE)
            deployment.release("counter/v1.0.0", "app/v1.0.0")
            deployment.push("main", "counter/v1.0.0", "app/v1.0.0")  # its wait may end before the last trial
            wait_until(lambda: len(deployment.status()["modules"]) == count, f"{count} modules serve", 600)
        deployment.stop()
        yield deployment


def _start(host: Deployment) -> Measured:
    began = perf_counter_ns()
    host.start()
    took = perf_counter_ns() - began
    host.stop()
    return {"start": [took]}
