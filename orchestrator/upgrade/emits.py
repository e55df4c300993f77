"""What a release says to others: its literal `self.send`, `self.ask` and `self.publish` calls (DESIGN §4, `[emits]`).

Nothing is executed: the sources are parsed. Only what stands there counts: texts, names bound once to a text at the top of
the file, dict displays and constants in them. All else is unknown, and what is unknown is never wrong.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from orchestrator.runtime.description import Emit
from orchestrator.runtime.schema import UNKNOWN, Schema

TOPICS = "topics"  # the key of `[emits]` that is no module's name
_PARAMETERS = {
    "send": ("name", "type", "body"),
    "ask": ("name", "type", "body"),
    "publish": ("topic", "body"),
}
_SPOKEN = tuple(how.encode() for how in _PARAMETERS)
_SPEAKERS = frozenset(
    {"self", "self._module"}
)  # a module, and a client that `livetag interface --stub` wrote
_TEXT_MAX = 200  # longer constants are only texts: a description is no place for a book
_INT_MAX = 2**63


def scan_folder(folder: Path, tops: Sequence[str]) -> tuple[Emit, ...]:
    """The emits of every source file of a staged release, in the order of files and lines. Reads them; for the child."""
    found: list[Emit] = []
    for top in tops:
        for path in sorted((folder / top).rglob("*.py")):
            source = path.read_bytes()
            if any(how in source for how in _SPOKEN):  # most files say nothing, and parsing costs the push
                found += scan_source(source, path.relative_to(folder).as_posix())
    return tuple(found)


def scan_source(source: bytes | str, file: str) -> list[Emit]:
    """The emits of one source file; none if it cannot be parsed, which importing it will say better."""
    try:
        tree = ast.parse(source, file)
    except (SyntaxError, ValueError, RecursionError):
        return []
    constants = _constants(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = [emit for call in calls for emit in _emits_of(call, constants, file)]
    return sorted(found, key=lambda emit: emit.line)


def declared(emits: Mapping[str, Sequence[str]]) -> tuple[Emit, ...]:
    """What `[emits]` of module.toml says: types per target name, and topics."""
    topics = [Emit("publish", topic) for topic in emits.get(TOPICS, ())]
    types = [Emit("send", name, type_) for name, types in emits.items() if name != TOPICS for type_ in types]
    return (*types, *topics)


def completed(scanned: Sequence[Emit], named: Sequence[Emit]) -> tuple[Emit, ...]:
    """What was found, and of what was declared that which was not found."""
    known = {(emit.name, emit.type) for emit in scanned}
    return (*scanned, *(emit for emit in named if (emit.name, emit.type) not in known))


def _constants(tree: ast.Module) -> dict[str, str]:
    """Names that are bound to one text at the top of the file, and to nothing else anywhere in it."""
    bound: dict[str, list[ast.expr | None]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.setdefault(node.id, []).append(None)
        elif isinstance(node, ast.arg):
            bound.setdefault(node.arg, []).append(None)
    found = {}
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        value = getattr(statement, "value", None)
        if len(targets) == 1 and isinstance(targets[0], ast.Name) and isinstance(value, ast.Constant):
            name = targets[0].id
            if isinstance(value.value, str) and len(bound.get(name, ())) == 1:
                found[name] = value.value
    return found


def _emits_of(call: ast.Call, constants: Mapping[str, str], file: str) -> Iterator[Emit]:
    how = _how(call)
    if how is None or any(isinstance(argument, ast.Starred) for argument in call.args):
        return
    names = _PARAMETERS[how]
    given = dict(zip(names, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg in names}
    spread = any(keyword.arg is None for keyword in call.keywords)
    body = _schema(given["body"], constants) if "body" in given else UNKNOWN if spread else {"enum": [None]}
    if how == "publish":
        for topic in _topics(given.get("topic"), constants):
            yield Emit(how, topic, "", body, file, call.lineno)
        return
    for name in _texts(given.get("name"), constants):
        for type_ in _texts(given.get("type"), constants):
            yield Emit(how, name, type_, body, file, call.lineno)


def _how(call: ast.Call) -> Literal["send", "ask", "publish"] | None:
    function = call.func
    if not isinstance(function, ast.Attribute) or not _speaks(function.value):
        return None
    for how in ("send", "ask", "publish"):
        if function.attr == how:
            return how
    return None


def _speaks(node: ast.expr) -> bool:
    """`self`, which is a module, or `self._module`, which is one in a client that `livetag interface --stub` wrote."""
    if isinstance(node, ast.Attribute) and node.attr == "_module":
        node = node.value
    return isinstance(node, ast.Name) and node.id == "self"


def _texts(node: ast.expr | None, constants: Mapping[str, str]) -> list[str]:
    """The texts that an expression may be; none if that is not to be seen."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.Name) and node.id in constants:
        return [constants[node.id]]
    if isinstance(node, ast.IfExp):
        both = [_texts(node.body, constants), _texts(node.orelse, constants)]
        return [text for texts in both for text in texts] if all(both) else []
    return []


def _topics(node: ast.expr | None, constants: Mapping[str, str]) -> list[str]:
    """Topics; of an f-string the part before its first value, and a star."""
    if isinstance(node, ast.JoinedStr) and node.values:
        first = node.values[0]
        return [f"{text}*" for text in _texts(first, constants)]
    return _texts(node, constants)


# -- bodies ----------------------------------------------------------------------------------------------------------


def _schema(node: ast.expr, constants: Mapping[str, str]) -> Schema:
    """What is known of an expression's value."""
    if isinstance(node, ast.Constant):
        return _constant(node.value)
    if isinstance(node, ast.UnaryOp):
        return _signed(node)
    if isinstance(node, ast.Name):
        return {"enum": [constants[node.id]]} if node.id in constants else UNKNOWN
    if isinstance(node, ast.JoinedStr):
        return _some("string")
    if isinstance(node, ast.IfExp):
        return {"anyOf": [_schema(node.body, constants), _schema(node.orelse, constants)]}
    if isinstance(node, ast.Dict):
        return _dict(node, constants)
    if isinstance(node, (ast.List, ast.Tuple)):
        return _list(node.elts, constants)
    if isinstance(node, (ast.ListComp, ast.Set, ast.SetComp)):
        return _some("array")
    return _some("object") if isinstance(node, ast.DictComp) else UNKNOWN


def _some(kind: str) -> Schema:
    """Of this kind, but nobody can say which: it fits wherever one of that kind does."""
    return {"type": kind, **UNKNOWN}


def _constant(value: object) -> Schema:
    if isinstance(value, bytes):
        return {**_some("string"), "contentEncoding": "base64"}
    if isinstance(value, str) and len(value) <= _TEXT_MAX and value.isprintable():
        return {"enum": [value]}
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < _INT_MAX):
        return {"enum": [value]}
    kinds = ((str, "string"), (int, "integer"), (float, "number"))
    return next((_some(name) for kind, name in kinds if isinstance(value, kind)), UNKNOWN)


def _signed(node: ast.UnaryOp) -> Schema:
    if isinstance(node.op, ast.Not):
        return _some("boolean")
    number = node.operand.value if isinstance(node.operand, ast.Constant) else None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return UNKNOWN
    return _constant(-number if isinstance(node.op, ast.USub) else number)


def _dict(node: ast.Dict, constants: Mapping[str, str]) -> Schema:
    """A display: its fields, and whether there may be others (`**rest`, or a key that is not to be seen)."""
    properties: Schema = {}
    others: Schema | bool = False
    for key, value in zip(node.keys, node.values, strict=True):
        names = _texts(key, constants)
        if len(names) == 1:
            properties[names[0]] = _schema(value, constants)
        elif isinstance(key, ast.Constant):
            return UNKNOWN  # a key that is no text: rare, and not worth a rule
        else:
            others = UNKNOWN
            properties = dict.fromkeys(properties, UNKNOWN)  # what follows may put another value there
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": others,
    }


def _list(elements: Iterable[ast.expr], constants: Mapping[str, str]) -> Schema:
    items = []
    for element in elements:
        if isinstance(element, ast.Starred):
            return _some("array")
        items.append(_schema(element, constants))
    return {
        "type": "array",
        "prefixItems": items,
        "items": False,
        "minItems": len(items),
        "maxItems": len(items),
    }
