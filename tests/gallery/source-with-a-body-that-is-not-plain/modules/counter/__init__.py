"""Counts."""

import socket
from livetag import handles

from .counting import Counting


class Counter(Counting):
    @handles
    def answer(self, to: socket.socket) -> None:
        to.sendall(b"yes")
