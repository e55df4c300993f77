"""An xoscar actor that gives back what it got."""

from __future__ import annotations

import xoscar


class Echo(xoscar.Actor):  # type: ignore[misc]
    def echo(self, message: object) -> object:
        return message
