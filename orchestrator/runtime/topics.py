"""Topics and the patterns that take them (paper §3.2.4). Pure."""

from __future__ import annotations


def topic_matches(pattern: str, topic: str) -> bool:
    """Does the topic fall under the pattern? `clock.*` takes `clock.tick` and `clock.tick.late`, not `clock`."""
    if pattern.endswith("*"):
        return topic.startswith(pattern[:-1])
    return pattern == topic
