"""Reconfiguration management: the host process, its control socket, and the command line."""
