"""A typed client of a module in service, as Python source to paste into another one (`livetag interface NAME --stub`). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.control.annotations import Annotations, Schema, is_name
from orchestrator.upgrade.shape_words import takes_value

Facts = Mapping[str, Any]  # Any: JSON


def client_source(interface: Facts) -> str:
    """The source of the client: one method to ask and one to send for each type, and the TypedDicts that they name.

    Calls have literal names, so that the scan of the module that has it finds them (DESIGN §4, `[emits]`).
    """
    annotations = Annotations()
    annotations.use("Any")
    taken: set[str] = set()
    methods = [
        line
        for handled in interface["handles"]
        for line in _methods(str(interface["module"]), handled, annotations, taken)
    ]
    name = "".join(part.capitalize() for part in re.split(r"\W|_", str(interface["module"])))
    head = [
        *annotations.imports,
        "",
        "from livetag import Module",
        *(f"\n\n{source}" for source in annotations.classes.values()),
        "",
        "",
        f"class {name}Client:",
        f'    """What {interface["module"]} {interface["version"]} handles. Delete what you do not call: what is here counts as',
        "    sent, and holds up a version that would not take it.",
        "",
        f"    In a module: `{name}Client(self)`. Made by `livetag interface {interface['module']} --stub`.",
        '    """',
        "",
        "    def __init__(self, module: Module[Any]) -> None:",
        "        self._module = module",
    ]
    return "\n".join([*head, *methods]) + "\n"


def _methods(target: str, handled: Facts, annotations: Annotations, taken: set[str]) -> Iterator[str]:
    """`async def tick(...)`, which asks, and `def send_tick(...)`."""
    type_, body = str(handled["type"]), handled["body"]
    plain = re.sub(r"\W", "_", type_)
    plain = plain if is_name(plain) else f"_{plain}" if not plain.isidentifier() else f"{plain}_"
    parameters, sent, filling = _parameters(body, annotations)
    returns = annotations.of(handled["returns"]) if handled.get("returns") is not None else "Any"
    deadline = "timeout_s" if not any(p.startswith("timeout_s:") for p in parameters) else "ask_timeout_s"
    call = f"{_quoted(target)}, {_quoted(type_)}, {sent}"
    for name, is_ask in ((plain, True), (f"send_{plain}", False)):
        while name in taken:
            name += "_"  # noqa: PLW2901  # until nobody has it
        taken.add(name)
        yield ""
        if is_ask:
            yield f"    async def {name}({', '.join(['self', *parameters, '*', f'{deadline}: float = 5.0'])}) -> {returns}:"
            yield f'        """Ask {_shown(type_)}, and wait for the reply."""'
            yield from filling
            asked = f"await self._module.ask({call}, timeout_s={deadline})"
            yield from _returning(asked, returns)
        else:
            yield f"    def {name}({', '.join(['self', *parameters])}) -> None:"
            yield f'        """Send {_shown(type_)}; nobody waits."""'
            yield from filling
            yield f"        self._module.send({call})"


def _returning(asked: str, returns: str) -> Iterator[str]:
    if returns == "None":
        yield f"        {asked}"
    elif returns == "Any":
        yield f"        return {asked}"
    else:
        yield f"        reply: {returns} = {asked}"
        yield "        return reply"


def _parameters(body: Schema, annotations: Annotations) -> tuple[list[str], str, list[str]]:
    """The parameters, the expression that is sent, and the lines that make it if it takes some."""
    defs = body.get("$defs", {})
    if not body.get("noneIsEmpty"):
        return [f"body: {annotations.of(body)}"], "body", []
    fields = defs[body["$ref"].rpartition("/")[2]]
    properties, required = fields["properties"], fields["required"]
    parameters, sent, filling = [], [], []
    for name in (*required, *(name for name in properties if name not in required)):
        text = annotations.of(properties[name], defs)
        default = properties[name].get("default", ...)
        if name in required:
            parameters.append(f"{name}: {text}")
        elif not takes_value(
            default, properties[name]
        ):  # it cannot stand here: what is not sent is the default
            parameters.append(f"{name}: {text if text in {'Any', 'None'} else f'{text} | None'} = None")
            filling += [f"        if {name} is not None:", f"            body_[{_quoted(name)}] = {name}"]
            continue
        else:
            parameters.append(f"{name}: {text} = {default!r}")
        sent.append(f"{_quoted(name)}: {name}")
    made = f"{{{', '.join(sent)}}}"
    if filling:
        return parameters, "body_", [f"        body_: dict[str, Any] = {made}", *filling]
    return parameters, made if sent else "{}", []


def _quoted(text: str) -> str:
    plain: Sequence[str] = ('"', "\\")
    return f'"{text}"' if text.isprintable() and not any(mark in text for mark in plain) else repr(text)


def _shown(text: str) -> str:
    """The text inside a docstring."""
    return re.sub(r"[\"\\]", "?", text) if text.isprintable() else "it"
