"""The version-control repository: a bare Git repository of module packages. Knows Git, never the runtime."""
