"""Modules, proxies, names and events: the dynamic architecture of paper §3.2. Knows nothing of Git."""
