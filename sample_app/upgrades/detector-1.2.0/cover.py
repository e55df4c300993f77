"""Which prefixes hold a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

# Nobody owns a wider one; a default route holds everything and says nothing.
SHORTEST = {AF_INET: 8, AF_INET6: 16}


def covering(prefix: str) -> Iterator[str]:
    """Yield the wider prefixes that hold this one, the longest first. BROKEN ON PURPOSE: only whole bytes are tried."""
    address, _, bits = prefix.partition("/")
    family = AF_INET6 if ":" in address else AF_INET
    packed = inet_pton(family, address)
    number, width = int.from_bytes(packed, "big"), len(packed) * 8
    for length in range((int(bits) - 1) // 8 * 8, SHORTEST[family] - 1, -8):
        number &= ~((1 << (width - length)) - 1)
        yield f"{inet_ntop(family, number.to_bytes(len(packed), 'big'))}/{length}"
