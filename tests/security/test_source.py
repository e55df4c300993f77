"""What the product never does, read from its source: so that no later change brings it in unseen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = [
    ROOT / "livetag.py",
    *(f for name in ("orchestrator", "repo_store", "hooks") for f in (ROOT / name).rglob("*.py")),
]
FORBIDDEN_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "tarfile",
    "zipfile",
    "yaml",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {
    "system",
    "popen",
    "getoutput",
    "getstatusoutput",
    "create_subprocess_shell",
    "extractall",
    "unpack_archive",
}
# The loader runs a version's own code in its own namespace: that is what a deployed module is.
LOADER = ROOT / "orchestrator" / "runtime" / "loader.py"
ALLOWED = {(LOADER, "exec"), (LOADER, "compile"), (LOADER, "__import__")}


def _forbidden(called: ast.Attribute) -> bool:
    of = called.value.id if isinstance(called.value, ast.Name) else ""
    if of == "builtins" and called.attr in FORBIDDEN_CALLS:
        return True
    return called.attr in FORBIDDEN_METHODS and (of, called.attr) != ("platform", "system")


def breaches(path: Path, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from (
                f"{where} imports {a.name}" for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield f"{where} imports {node.module}"
        elif isinstance(node, ast.Call):
            if (
                isinstance(node.func, ast.Name)
                and node.func.id in FORBIDDEN_CALLS
                and (path, node.func.id) not in ALLOWED
            ):
                yield f"{where} calls {node.func.id}"
            if isinstance(node.func, ast.Attribute) and _forbidden(node.func):
                yield f"{where} calls {node.func.attr}"
            yield from (
                f"{where} imports {name} by its name"
                for each in node.args
                if isinstance(each, ast.Constant) and (name := each.value) in FORBIDDEN_MODULES
            )
            for keyword in node.keywords:
                if keyword.arg == "shell" and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield f"{where} gives shell="


def test_the_product_unpickles_evaluates_unpacks_and_shells_nothing() -> None:
    found = [breach for path in PRODUCT for breach in breaches(path, ast.parse(path.read_text()))]
    assert found == []
    assert len(PRODUCT) > 150


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from tarfile import open",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
        "subprocess.run(text, shell=flag)",
        "os.system(text)",
        "builtins.exec(text)",
        "importlib.import_module('pickle')",
        "asyncio.create_subprocess_shell(text)",
    ],
)
def test_each_of_them_would_be_found(line: str) -> None:
    assert list(breaches(Path("new.py"), ast.parse(line)))
