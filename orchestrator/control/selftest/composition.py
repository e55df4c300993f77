"""An app.toml written from values: what is in service, as a composition. Pure: no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from repo_store.manifest import AppManifest, ModuleSpec


def app_toml(manifest: AppManifest) -> str:
    """The text that `repo_store.manifest.parse_app` reads as this manifest."""
    parts = [f"[app]\nname = {_value(manifest.app.name)}\n"]
    parts += [_module(name, spec) for name, spec in sorted(manifest.modules.items())]
    return "\n".join(parts)


def _module(name: str, spec: ModuleSpec) -> str:
    lines = [f"[modules.{name}]", f"package = {_value(spec.package or name)}"]
    if not spec.enabled:
        lines.append("enabled = false")
    if spec.also:
        lines.append(f"also = {_value(list(spec.also))}")
    if spec.config:
        lines.append(f"config = {_value(spec.config)}")
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):  # a basic string of TOML is one of JSON, but for DEL and for surrogates
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_value(str(key))} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_value, value)) + "]"
    raise TypeError(f"{value!r} is not plain data")
