"""What config took from the host's environment and files, so that it can be kept out of every text (DESIGN §4).

An author's error may have a token in it, and error texts go everywhere: the log, the journal, Git's history, the pusher's
terminal. So what is resolved is remembered here, and hidden wherever a text leaves. What a module does with its own
config beyond that, in its state and its messages, is its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

HIDDEN = "(secret)"
CHARS_MIN = 6
"""A shorter value is not hidden: it would be found inside ordinary words and numbers, and hide them."""


class Secrets:
    """The secrets of one host. They are only added to: a text may come late."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, config: object, resolved: object) -> None:
        """Remember what stands in `resolved` where `config` names a variable or a file of the host."""
        new = {text for secret in _secrets(config, resolved) for text in _written(secret)} - self._known
        if new:
            self._known |= new
            # The longest first: a secret may be the beginning of another.
            found = sorted(self._known, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, found)))

    def hide(self, text: str) -> str:
        """The text with every secret replaced. Costs nothing for an application without secrets."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def __bool__(self) -> bool:
        return self._pattern is not None


def _secrets(config: object, resolved: object) -> Iterator[str]:
    if isinstance(config, Mapping):
        if set(config) in ({"env"}, {"file"}) and isinstance(resolved, str):
            yield resolved
        elif isinstance(resolved, Mapping):
            for key, value in config.items():
                yield from _secrets(value, resolved.get(key))
    elif isinstance(config, (list, tuple)) and isinstance(resolved, (list, tuple)):
        for value, its in zip(config, resolved, strict=False):
            yield from _secrets(value, its)


def _written(secret: str) -> Iterator[str]:
    """The secret as texts have it: as it is, in a repr, in JSON, with escapes, and each line of it by itself."""
    for part in {secret, *secret.splitlines()}:
        bare = part.strip()
        if len(bare) >= CHARS_MIN:
            found = {bare, repr(bare)[1:-1]}
            for _ in range(2):  # a text with the repr may be in JSON, and that in a line of JSON
                found |= {json.dumps(each)[1:-1] for each in found}
                found |= {json.dumps(each, ensure_ascii=False)[1:-1] for each in found}
            yield from found
