"""The command `livetag`."""

from orchestrator.control.cli.app import main

__all__ = ["main"]
