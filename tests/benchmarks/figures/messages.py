"""Figures 7 to 10: calls, asks, sends and events, message by message."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.harness import Bench, Row, Side
from tests.benchmarks.peers.answer import Measured

LOOP = "host"  # as a host has it: uvloop where it is installed


def _messages(bench: Bench, loop: str = LOOP) -> Side:
    return bench.ours("messages", loop)


def figure_07(bench: Bench) -> list[Row]:
    """A method behind the module's proxy, called as the pump calls it, beside the same method called directly."""
    count = bench.size(500_000, 10_000)
    found = bench.in_turn(bench.size(9, 2), {"ours": lambda: _messages(bench).measure(f"calls {count}")})[
        "ours"
    ]
    called = found.of("proxied", "call through the proxy"), found.of("direct", "direct method call")
    return [Row(7, *called, aim=2.2, unit="ns")]


def figure_08(bench: Bench) -> list[Row]:
    """An ask: of an idle module, and through a mailbox in which a message waits."""
    many, few = bench.size(4_000, 50), bench.size(300, 5)
    found = bench.in_turn(
        bench.size(7, 1),
        {
            "ours": lambda: _messages(bench).measure(f"ask {many}"),
            "queue": lambda: _messages(bench).measure(f"bare_ask {many}"),
            "plain": lambda: _messages(bench, "asyncio").measure(f"ask {many}"),
            "plain_queue": lambda: _messages(bench, "asyncio").measure(f"bare_ask {many}"),
            "pykka": lambda: bench.peer("pykka").measure(f"ask {many}"),
            "thespian": lambda: bench.peer("thespian").measure(f"ask {few}"),
            "xoscar": lambda: bench.peer("xoscar").measure(f"ask {many}"),
            "erlang": lambda: _erlang(bench).measure(f"ask {many}"),
            "busy": lambda: _messages(bench).measure(f"busy_ask {many}"),
            "busy_queue": lambda: _messages(bench).measure(f"bare_busy_ask {many}"),
            "plain_busy": lambda: _messages(bench, "asyncio").measure(f"busy_ask {many}"),
            "plain_busy_queue": lambda: _messages(bench, "asyncio").measure(f"bare_busy_ask {many}"),
        },
    )

    def row(ours: str, theirs: str, what: str, against: str, aim: float) -> Row:
        return Row(8, found[ours].of("ask", what), found[theirs].of("ask", against), aim=aim)

    idle, busy = "ask of an idle module", "send and ask, through the mailbox"
    return [
        row("ours", "queue", idle, f"asyncio.Queue, {bench.loop}", 0.15),
        row("plain", "plain_queue", f"{idle}, asyncio", "asyncio.Queue, asyncio", 0.15),
        row("ours", "pykka", idle, "Pykka ask", 0.03),
        row("ours", "thespian", idle, "Thespian ask, processes", 0.005),
        row("ours", "xoscar", idle, "xoscar call, one process", 0.02),
        row("ours", "erlang", idle, "Erlang gen_server:call", 0.5),
        row("busy", "busy_queue", busy, f"asyncio.Queue, {bench.loop}", 1.3),
        row("plain_busy", "plain_busy_queue", f"{busy}, asyncio", "asyncio.Queue, asyncio", 1.3),
    ]


def figure_09(bench: Bench) -> list[Row]:
    """A send, per message handled: a batch is sent, and an ask behind it is answered when all of it was handled."""
    batches = f"{bench.size(500, 50)} {bench.size(20, 2)}"
    found = bench.in_turn(
        bench.size(15, 1),
        {
            "one": lambda: _messages(bench).measure(f"send {batches}"),
            "five": lambda: _messages(bench).measure(f"send5 {batches}"),
            "pykka": lambda: bench.peer("pykka").measure(f"send {batches}"),
            "erlang": lambda: _erlang(bench).measure(f"send {batches}"),
            "erlang5": lambda: _erlang(bench).measure(f"send5 {batches}"),
        },
    )
    one, five = found["one"].of("send", "send of one field"), found["five"].of("send", "send of five fields")
    return [
        Row(9, one, found["pykka"].of("send", "Pykka tell"), aim=0.3),
        Row(9, one, found["erlang"].of("send", "Erlang cast"), aim=2),
        Row(9, five, found["erlang5"].of("send", "Erlang cast, five fields"), aim=4),
    ]


def figure_10(bench: Bench) -> list[Row]:
    """An event, per delivery handled, beside a send."""
    deliveries, times = bench.size(2_000, 100), bench.size(8, 2)
    aims = {1: 1.3, 10: 1.0, 100: 1.0}

    def publish(subscribers: int) -> Callable[[], Measured]:
        return lambda: _messages(bench).measure(f"publish {subscribers} {deliveries // subscribers} {times}")

    found = bench.in_turn(
        bench.size(15, 1),
        {
            "send": lambda: _messages(bench).measure(f"send {deliveries} {times}"),
            **{str(count): publish(count) for count in aims},
        },
    )
    return [
        Row(
            10,
            found[str(count)].of("publish", f"publish to {count}, per delivery"),
            found["send"].of("send", "send of one field"),
            aim=aim,
        )
        for count, aim in aims.items()
    ]


def _erlang(bench: Bench) -> Side:
    """Erlang with an empty server."""
    return bench.once(bench.peer("erlang"), "state 0")
