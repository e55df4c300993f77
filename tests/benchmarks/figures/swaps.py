"""Figures 1 to 6: what a swap costs those who ask meanwhile, beside Erlang's upgrade of a gen_server with the same entries."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.harness import Bench, Found, Row, Side
from tests.benchmarks.peers.answer import Measured

MILLION = 1_000_000
LOADS = {"full": "asked as fast as it can", "beat": "10,000 asks/s"}


def _entries(bench: Bench) -> int:
    return bench.size(MILLION, 1_000)


def _ours(bench: Bench, entries: int, loop: str = "host") -> Side:
    """An application whose module has so many entries; a process for each number and loop."""
    side = bench.ours("swaps", str(bench.scratch(f"swaps-{loop}-{entries}")), loop)
    return bench.once(side, f"state {entries}")


def _erlang(bench: Bench, entries: int) -> Side:
    return bench.once(bench.peer("erlang"), f"state {entries}")


def _swapped(bench: Bench) -> dict[str, Found]:
    """Swaps that leave the entries as they are, under both loads and on both loops."""
    entries, count = _entries(bench), bench.size(5, 2)

    def ours(load: str, loop: str) -> Callable[[], Measured]:
        return lambda: _ours(bench, entries, loop).measure(f"swaps {load} {count}")

    def erlang(load: str) -> Callable[[], Measured]:
        return lambda: _erlang(bench, entries).measure(f"swaps keep {load} {count}")

    loops = ("host",) if bench.quick or bench.loop == "asyncio" else ("host", "asyncio")
    measures = {f"{load} {loop}": ours(load, loop) for load in LOADS for loop in loops}
    return bench.in_turn(bench.size(8, 1), {**measures, **{f"{load} erlang": erlang(load) for load in LOADS}})


def _said(bench: Bench, name: str) -> str:
    load, loop = name.split()
    return f"longest gap at a swap, {LOADS[load]}, {bench.loop if loop == 'host' else loop}"


def figure_01(bench: Bench) -> list[Row]:
    """The longest gap that a client sees around a swap, the entries untouched; and 3, the same beside none in that time."""
    found = bench.shared("swapped", _swapped)
    aims = {"full host": 0.3, "full asyncio": 0.3, "beat host": 0.25}
    rows = []
    for name in found:
        load, side = name.split()
        if side != "erlang":
            ours, erlang = found[name], found[f"{load} erlang"]
            shown = ours.of("gap", _said(bench, name)), erlang.of("gap", "Erlang upgrade, same client")
            rows.append(Row(1, *shown, aim=aims.get(name)))
    whole = "until the old version is gone"
    ours, erlang = found["full host"], found["full erlang"]
    shown = ours.of("whole", f"{_said(bench, 'full host')}, {whole}"), erlang.of("whole", f"Erlang, {whole}")
    return [*rows, Row(1, *shown)]


def figure_02(bench: Bench) -> list[Row]:
    """The pause proper: from the first message that is held to the first that is served."""
    entries, count = _entries(bench), bench.size(10, 2)
    found = bench.in_turn(
        bench.size(5, 1),
        {
            "ours": lambda: _ours(bench, entries).measure(f"pauses {count}"),
            "erlang": lambda: _erlang(bench, entries).measure(f"swaps keep full {count}"),
            "prepared": lambda: _erlang(bench, entries).measure(f"swaps prepared full {count}"),
        },
    )
    ours = found["ours"].of("pause", "pause, a million entries untouched")
    return [
        Row(2, ours, found["erlang"].of("pause", "Erlang, suspend to resume"), aim=0.02),
        Row(2, ours, found["prepared"].of("pause", "Erlang, code prepared before"), aim=0.04),
    ]


def figure_03(bench: Bench) -> list[Row]:
    """The longest gap from the beginning of a swap until the old version is gone, beside one in as long a time without."""
    found = bench.shared("swapped", _swapped)
    return [
        Row(
            3,
            each.of("whole", f"{_said(bench, name)}, until all is retired"),
            each.of("quiet", "the same time without a swap"),
            aim=3,
        )
        for name, each in found.items()
        if not name.endswith("erlang")
    ]


def figure_04(bench: Bench) -> list[Row]:
    """Whether the pause depends on how much there is."""
    entries, count = _entries(bench), bench.size(10, 2)
    found = bench.in_turn(
        bench.size(5, 1),
        {
            "none": lambda: _ours(bench, 0).measure(f"pauses {count}"),
            "many": lambda: _ours(bench, entries).measure(f"pauses {count}"),
            "none reshaped": lambda: _ours(bench, 0).measure(f"reshape {max(count // 2, 1)}"),
            "many reshaped": lambda: _ours(bench, entries).measure("reshape 1"),
        },
    )
    return [
        Row(
            4,
            found["many"].of("pause", "pause with a million entries, untouched"),
            found["none"].of("pause", "with none"),
            aim=1.5,
        ),
        Row(
            4,
            found["many reshaped"].of("pause", "pause with a million entries, each changed"),
            found["none reshaped"].of("pause", "with none"),
            aim=1.5,
            or_ours=20_000,
        ),
    ]


def figure_05(bench: Bench) -> list[Row]:
    """A million entries change their shape: by the sweep and at first touch, beside Erlang's rewrite in code_change."""
    entries = _entries(bench)
    found = bench.in_turn(
        bench.size(3, 1),
        {
            "ours": lambda: _ours(bench, entries).measure("reshape 1"),
            "erlang": lambda: _erlang(bench, entries).measure("swaps rewrite full 2"),
        },
    )
    erlang = found["erlang"].of("pause", "Erlang, all rewritten in the pause")
    return [
        Row(5, found["ours"].of("loop", "longest time the loop stood"), erlang, aim=0.003, unit="ms"),
        Row(5, found["ours"].of("message", "worst latency of a message"), erlang, aim=0.01, unit="ms"),
        Row(5, found["ours"].of("took", "until the last record is changed"), erlang, unit="ms"),
    ]


def figure_06(bench: Bench) -> list[Row]:
    """Modules that are swapped as one, beside one."""
    many = {10: (4.0, None), bench.size(100, 11): (30.0, 150_000.0)}
    found = bench.in_turn(
        bench.size(8, 1),
        {
            "1": lambda: _ours(bench, 0).measure("many 1 5"),
            **{str(count): _many(bench, count) for count in many},
        },
    )
    return [
        Row(
            6,
            found[str(count)].of("pause", f"pause of {count} modules at once"),
            found["1"].of("pause", "of one"),
            aim=aim,
            or_ours=or_ours,
        )
        for count, (aim, or_ours) in many.items()
    ]


def _many(bench: Bench, modules: int) -> Callable[[], Measured]:
    return lambda: _ours(bench, 0).measure(f"many {modules} 5")


def picture(bench: Bench) -> dict[str, Measured]:
    """Each message of two seconds with an upgrade in their middle, a million entries, untouched and changed."""
    entries = _entries(bench)
    found = {}
    for how, said in (("keep", "entries untouched"), ("rewrite", "each entry changed")):
        found[f"livetag, {said}"] = _ours(bench, entries).measure(f"picture {how}")
        found[f"Erlang, {said}"] = _erlang(bench, entries).measure(f"picture {how}")
    return found
