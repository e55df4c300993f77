"""A message body from the command line: `key=text number:=2`, or one JSON object."""

import json
from collections.abc import Sequence

from orchestrator.control.cli.failures import Usage
from orchestrator.control.printable import printable

FORMS = "Give fields as key=text or key:=JSON (number:=2, list:='[1, 2]'), or one JSON object."


def parse_body(words: Sequence[str]) -> dict[str, object]:
    """Return the body that `words` spell; no words are the empty body.

    `key=text` is always text; `key:=value` is any JSON; a single word that starts with `{` is the whole body.
    Raises Usage naming the word that is neither.
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        body = _json(words[0], words[0])
        if not isinstance(body, dict):
            raise Usage(f"{printable(words[0])} is not a JSON object. {FORMS}")
        return body
    fields: dict[str, object] = {}
    for word in words:
        key, value = _field(word)
        if key in fields:
            raise Usage(f"The field {printable(key)} is given twice. {FORMS}")
        fields[key] = value
    return fields


def _field(word: str) -> tuple[str, object]:
    name, equals, text = word.partition("=")
    typed = name.endswith(":")
    key = name[:-1] if typed else name
    if not equals or not key:
        raise Usage(f"{printable(word)} is no field. {FORMS}")
    return key, _json(text, word) if typed else text


def _json(text: str, word: str) -> object:
    try:
        value: object = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Usage(f"{printable(word)} is not JSON: {printable(error)}. {FORMS}") from error
    return value


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is given twice in one object")
    return fields


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
