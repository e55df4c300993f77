"""The upgrade protocol and its two-phase commit; knows the runtime and the repository store."""
