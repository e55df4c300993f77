"""livetag: push a tag, and it is live. The face of the project; it re-exports, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if __name__ == "__main__":  # a command, which ends there and has no use for what an author imports
    from orchestrator.control.cli import main

    main()

from orchestrator.runtime.message import Message
from orchestrator.runtime.module import Module, every, handles, intake, subscribes, upcasts
from orchestrator.runtime.resource import resource
from orchestrator.runtime.table import Table

if TYPE_CHECKING:
    from orchestrator import testing

__all__ = [
    "Message",
    "Module",
    "Table",
    "every",
    "handles",
    "intake",
    "resource",
    "subscribes",
    "testing",
    "upcasts",
]


def __getattr__(name: str) -> object:
    """Import `livetag.testing` when it is asked for: a module in service has no use for it."""
    if name == "testing":
        import orchestrator.testing

        return orchestrator.testing
    raise AttributeError(f"module 'livetag' has no attribute {name!r}")
