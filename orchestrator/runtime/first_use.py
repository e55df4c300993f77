"""The first use of a type by msgspec, one thread at a time.

At the first decode of a class msgspec keeps on the class what it found out about its fields, and puts it there before it
is complete. It runs Python code in between, so another thread may decode by the half of it: that is a NULL pointer, and
the process is gone without a word (0.22.0). livetag's own types are therefore turned into decoders at import, and the
author's, which load threads and the event loop may meet at the same moment, under this lock.
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec

_FIRST_USE = threading.RLock()


def decoder_of(type_: Any) -> msgspec.msgpack.Decoder[Any]:  # Any: the author's own type
    """A decoder of msgpack. Once it was made, any thread may decode or convert to the type.

    Raises TypeError or NameError if the type is not plain data.
    """
    with _FIRST_USE:
        return msgspec.msgpack.Decoder(type_)


def convert_first(value: object, type_: Any) -> Any:
    """`msgspec.convert` to a type that nobody may have used before.

    Raises msgspec.ValidationError, and TypeError or NameError if the type is not plain data.
    """
    with _FIRST_USE:
        return msgspec.convert(value, type_)
