"""What the counter remembers."""

import threading
from typing import TypedDict


class State(TypedDict):
    """`expected`: sender → the number of its next note. `odd`: the notes that were not the expected, or not whole."""

    ticks: int
    expected: dict[str, int]
    odd: int
    lock: threading.Event
