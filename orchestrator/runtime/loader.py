"""Two versions of one package in one process (DESIGN §8, side-by-side import).

Each load gets names of its own in `sys.modules` (`counter__<tree>_<load number>`), and builtins of its own whose
`__import__` maps the public name to them. So unchanged source, with relative, absolute and lazy imports of itself,
sees only its own version.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import importlib.util
import itertools
import linecache
import logging
import os
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.runtime.blueprint import Blueprint
from orchestrator.runtime.errors import DefinitionInvalid, LoadFailed, StateInvalid, error_text
from orchestrator.runtime.module import Module

_FRAMEWORK = str(Path(__file__).parents[1]) + os.sep
_LOAD_NUMBERS = itertools.count(1)  # sys.modules is one per process, and so are the names in it


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Gives a module its version's builtins before any of its code runs."""

    builtins: dict[str, Any]

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self.builtins
        super().exec_module(module)


class _Finder:
    """Finds the modules of one load; on `sys.meta_path` from `load` to `unload`."""

    def __init__(self, roots: Mapping[str, Path], version_builtins: dict[str, Any]) -> None:
        self._roots = roots
        self._builtins = version_builtins

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        head, *rest = name.split(".")
        root = self._roots.get(head)
        if root is None:
            return None
        base = root.joinpath(*rest)
        init = base / "__init__.py"
        file = init if init.is_file() else base.with_name(base.name + ".py")
        if not file.is_file():
            return None
        loader = _SourceLoader(name, str(file))
        loader.builtins = self._builtins
        folders = [str(base)] if file is init else None
        return importlib.util.spec_from_file_location(
            name, file, loader=loader, submodule_search_locations=folders
        )


class Loaded:
    """One load of a staged release: its top-level packages under names of their own."""

    def __init__(self, folder: Path, tops: Sequence[str], tag: str) -> None:
        number = next(_LOAD_NUMBERS)
        self._folder = str(folder)
        self.aliases = {top: f"{top}__{tag[:12]}_{number}" for top in tops}
        self.own_import = (
            self._make_import()
        )  # held by each function and frame of the load, through its builtins
        own = {**vars(builtins), "__import__": self.own_import}
        self._finder = _Finder({a: folder / top for top, a in self.aliases.items()}, own)

    def _make_import(self) -> Callable[..., ModuleType]:
        aliases, real = self.aliases, builtins.__import__

        def import_own(
            name: str,
            globals_: Mapping[str, object] | None = None,
            locals_: Mapping[str, object] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> ModuleType:
            head, dot, rest = name.partition(".")
            if level == 0 and head in aliases:
                name = aliases[head] + dot + rest
            return real(name, globals_, locals_, fromlist or (), level)

        return import_own

    def import_top(self, top: str) -> ModuleType:
        """Import a package of this load by its public name (`counter` or `counter.core`)."""
        if self._finder not in sys.meta_path:
            sys.meta_path.insert(0, self._finder)
        head, dot, rest = top.partition(".")
        return importlib.import_module(self.aliases[head] + dot + rest)

    def public_name(self, name: str) -> str:
        """The name as its author wrote it."""
        for top, alias in self.aliases.items():
            name = name.replace(alias, top)
        return name

    def unload(self) -> None:
        """Forget every trace of this load; the code is freed once nobody holds it."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for name in [n for n in list(sys.modules) if n.partition(".")[0] in self.aliases.values()]:
            sys.modules.pop(name, None)
        loggers = logging.root.manager.loggerDict
        for name in [n for n in list(loggers) if n.partition(".")[0] in self.aliases.values()]:
            loggers.pop(name, None)
        self._drop_paths(linecache.cache)
        self._drop_paths(sys.path_importer_cache)
        for clear in typing._cleanups:  # type: ignore[attr-defined]  # noqa: SLF001  # Optional[X] and the like pin X
            clear()

    def _drop_paths(self, cache: dict[str, Any]) -> None:
        for path in [p for p in list(cache) if isinstance(p, str) and p.startswith(self._folder + os.sep)]:
            cache.pop(path, None)


def load_blueprint(loaded: Loaded, package: str, entry: str | None) -> tuple[Blueprint, str]:
    """Import the package and compile its Module class; returns it with its entry, `module:Class`.

    Runs author code (the import); call it off the event loop, byte-compiled beforehand. On failure the load is undone.

    Raises LoadFailed, which names file and line of the author's code.
    """
    try:
        cls, found = _find_class(loaded, package, entry)
        return Blueprint(cls), found
    except (LoadFailed, DefinitionInvalid, StateInvalid) as error:
        loaded.unload()
        raise LoadFailed(loaded.public_name(str(error))) from None
    except BaseException as error:  # noqa: BLE001  # sys.exit() in a package is its failure, not the host's end
        loaded.unload()
        text = loaded.public_name(error_text(error))
        raise LoadFailed(f"importing {package} raised {text} ({author_line(error, loaded)})") from None


def _find_class(loaded: Loaded, package: str, entry: str | None) -> tuple[type[Module[Any]], str]:
    if entry is not None:
        module_name, _, class_name = entry.partition(":")
        if module_name.partition(".")[0] not in loaded.aliases:
            raise LoadFailed(
                f"entry = {entry!r} in module.toml is outside the package {package}. Name a class of the package."
            )
        cls = getattr(loaded.import_top(module_name), class_name, None)
        if not (isinstance(cls, type) and issubclass(cls, Module) and cls is not Module):
            raise LoadFailed(
                f"entry = {entry!r} in module.toml: {module_name} has no Module class {class_name!r}. "
                "Name the class as module:Class."
            )
        return cls, entry
    top = loaded.import_top(package)
    mine = (loaded.aliases[package], loaded.aliases[package] + ".")
    found = {
        value
        for value in vars(top).values()
        if isinstance(value, type)
        and issubclass(value, Module)
        and (value.__module__ + ".").startswith(mine[1])
    }
    leaves = [cls for cls in found if not any(other is not cls and issubclass(other, cls) for other in found)]
    if len(leaves) != 1:
        names = ", ".join(sorted(cls.__name__ for cls in leaves)) or "none"
        raise LoadFailed(
            f"the package {package} must define exactly one Module class, found: {names}. "
            f'Name the one to use in module.toml: entry = "{package}:ClassName".'
        )
    return leaves[0], f"{loaded.public_name(leaves[0].__module__)}:{leaves[0].__name__}"


def author_line(error: BaseException, loaded: Loaded | None = None) -> str:
    """`file.py line 12` of the innermost frame that is the author's own; the innermost of all if none is known."""
    frames = traceback.extract_tb(error.__traceback__)
    root = loaded._folder + os.sep if loaded is not None else None  # noqa: SLF001  # same file, same idea
    if root is not None:
        own = [f for f in frames if f.filename.startswith(root)] or frames
    else:
        own = [f for f in frames if not f.filename.startswith(_FRAMEWORK)] or frames
    if isinstance(error, SyntaxError) and isinstance(error.filename, str):
        return f"{Path(error.filename).name} line {error.lineno}"
    if not own:
        return "no line known"
    name = own[-1].filename
    return f"{name[len(root) :] if root and name.startswith(root) else Path(name).name} line {own[-1].lineno}"
