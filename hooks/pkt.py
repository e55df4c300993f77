"""pkt-line, the framing of Git's own conversations: four hex digits of length, then the content.

Source: gitprotocol-common(5). A packet of length 0000 is a flush and ends a part of the conversation.
"""

from typing import BinaryIO

CONTENT_MAX_BYTES = 65516
_HEADER_BYTES = 4


class ProtocolError(Exception):
    """The other side does not speak as documented."""


def read_packet(stream: BinaryIO) -> bytes | None:
    """Return the next packet without its line end, None for a flush. Raises ProtocolError; EOFError at the end."""
    header = stream.read(_HEADER_BYTES)
    if not header:
        raise EOFError("the conversation ended")
    try:
        length = int(header, 16) if len(header) == _HEADER_BYTES and header.isalnum() else -1
    except ValueError:
        length = -1
    if length == 0:
        return None
    if not _HEADER_BYTES <= length <= CONTENT_MAX_BYTES + _HEADER_BYTES:
        raise ProtocolError(f"{header!r} is not the length of a packet")
    content = stream.read(length - _HEADER_BYTES)
    if len(content) != length - _HEADER_BYTES:
        raise ProtocolError("a packet was cut off")
    return content[:-1] if content.endswith(b"\n") else content


def read_part(stream: BinaryIO) -> list[bytes]:
    """Return the packets up to the next flush."""
    packets = []
    while (packet := read_packet(stream)) is not None:
        packets.append(packet)
    return packets


def write_packet(stream: BinaryIO, content: bytes) -> None:
    """Write one packet; too long a content is cut, because what we send are refs and reasons for people."""
    content = content[: CONTENT_MAX_BYTES - 1]
    stream.write(b"%04x%s\n" % (len(content) + _HEADER_BYTES + 1, content))


def write_flush(stream: BinaryIO) -> None:
    stream.write(b"0000")
    stream.flush()
