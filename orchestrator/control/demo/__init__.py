"""`livetag demo`: upgrade a running BGP monitor with real pushes, and check that nothing is lost."""

from orchestrator.control.demo.run import run_demo

__all__ = ["run_demo"]
