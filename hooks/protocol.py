"""The conversation of git receive-pack with proc-receive, version 1. Source: githooks(5), proc-receive."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from hooks.pkt import ProtocolError, read_packet, read_part, write_flush, write_packet
from hooks.push import Command

VERSION = b"version=1"


@dataclass(frozen=True, slots=True)
class Push:
    """What receive-pack asks of proc-receive. `atomic`: all of these refs or none."""

    commands: tuple[Command, ...]
    options: tuple[str, ...]
    atomic: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one ref; with a reason it was not taken, and the pusher's `git push` exits 1."""

    ref: str
    reason: str | None = None


def read_push(stream: BinaryIO, out: BinaryIO) -> Push:
    """Agree on the version, then read commands and push options. Raises ProtocolError, EOFError."""
    features = _agree(stream, out)
    commands = tuple(_command(line) for line in read_part(stream))
    options: tuple[str, ...] = ()
    if b"push-options" in features:
        options = tuple(option.decode("utf-8", "surrogateescape") for option in read_part(stream))
    return Push(commands, options, atomic=b"atomic" in features)


def write_results(out: BinaryIO, results: Iterable[Result]) -> None:
    """Report each ref, `ok` or `ng` with its reason on one line, and end the conversation."""
    for result in results:
        ref = result.ref.encode("utf-8", "surrogateescape")
        if result.reason is None:
            write_packet(out, b"ok " + ref)
        else:
            reason = " ".join(result.reason.split()) or "refused"
            write_packet(out, b"ng %s %s" % (ref, reason.encode("utf-8", "replace")))
    write_flush(out)


def _agree(stream: BinaryIO, out: BinaryIO) -> list[bytes]:
    offer = read_packet(stream) or b""
    version, _, offered = offer.partition(b"\0")
    if version != VERSION:
        raise ProtocolError(f"git offers {version!r}, and only version 1 of proc-receive is known here")
    while read_packet(stream) is not None:
        pass  # what a later Git may add to its offer, up to the flush
    features = offered.split()
    accepted = b" ".join(feature for feature in (b"push-options", b"atomic") if feature in features)
    write_packet(out, VERSION + b"\0" + accepted if accepted else VERSION)
    write_flush(out)
    return features


def _command(line: bytes) -> Command:
    try:
        return Command.parse(line)
    except ValueError as error:
        raise ProtocolError(f"{line[:200]!r} is not a command") from error
