"""Run as a program of its own, alone (`python -I source_child.py`): limits on pushed source.

Nothing of the source is executed. But a hostile file can crash the parser itself or eat all memory, and then
it is this process that dies, not the host and not the hook. It imports nothing but the standard library, and
each mode no more of it than it uses: every push starts this three times.
"""

from __future__ import annotations

import resource
import struct
import sys
from typing import IO

HEADER = struct.Struct(">II")


def main(mode: str, memory_mb: str, cpu_s: str, *rest: str) -> int:
    """`imports MB S`: files on stdin, one JSON line each on stdout.

    `compile MB S FOLDER SHOWN`, once its input has said so: its exit code.

    Either is started before there is anything to do for it, and gets ready meanwhile.
    """
    _limit(resource.RLIMIT_AS, int(memory_mb) << 20)
    _limit(resource.RLIMIT_CPU, int(cpu_s))
    _limit(resource.RLIMIT_CORE, 0)
    if mode == "imports":
        _imports(sys.stdin.buffer)
        return 0
    return _compile(*rest)


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _imports(files: IO[bytes]) -> None:
    import ast  # noqa: F401
    import json

    while header := files.read(HEADER.size):
        name_length, length = HEADER.unpack(header)
        path, source = files.read(name_length).decode(), files.read(length)
        # One line a file, flushed: if the parser crashes, the first file without a line is the one.
        sys.stdout.write(json.dumps(_imports_of(path, source)) + "\n")
        sys.stdout.flush()


def _imports_of(path: str, source: bytes) -> dict[str, object]:
    import ast

    try:
        tree = ast.parse(source, filename=path)
    except SyntaxError as error:
        return {"problem": f"{path}, line {error.lineno or 1}: {error.msg}"}
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or "too deeply nested or too large to parse"
        return {"problem": f"{path}: {reason}"}
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return {"imports": found}


def _compile(folder: str, shown: str) -> int:
    import compileall
    import py_compile

    if not sys.stdin.read():
        return 1  # who would have said so is gone, and may have left half a folder
    # Unchecked: staged source never changes, and a stat for each import would be paid while the service runs.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    return (
        0 if compileall.compile_dir(folder, maxlevels=20, ddir=shown, quiet=1, invalidation_mode=mode) else 1
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
