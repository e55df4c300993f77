"""No type is decoded for the first time in two threads at once: msgspec 0.22.0 answers that with a NULL pointer."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Where a type may be converted to without a decoder made before, and why it is safe there.
CONVERTS = {
    "orchestrator/runtime/first_use.py": "under the lock",
    "orchestrator/runtime/handlers.py": "types whose decoder was made when the handler was",
    "orchestrator/control/requests.py": "on the event loop alone",
    "orchestrator/control/cli/session.py": "a command has one thread",
    "orchestrator/control/selftest/copy.py": "a command has one thread",
    "repo_store/manifest.py": "values, never a class",
}
DECODES = "orchestrator/runtime/first_use.py"


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, bool]]:
    """Each call with whether it runs at import."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[ast.Call, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield child, at_import
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, at_import and not inside)

    return walk(tree, True)


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def risks(path: str, source: str) -> list[str]:
    """The lines of a file that could meet a type for the first time in any thread."""
    found = []
    for call, at_import in calls(ast.parse(source)):
        typed = any(keyword.arg == "type" for keyword in call.keywords)
        late = name_of(call) == "decode" and typed
        late = late or (name_of(call) == "Decoder" and bool(call.args) and not at_import and path != DECODES)
        late = late or (ast.unparse(call.func) == "msgspec.convert" and path not in CONVERTS)
        if late:
            found.append(f"{path}:{call.lineno}: {ast.unparse(call)}")
    return found


def test_own_types_become_decoders_at_import() -> None:
    sources = [
        path for folder in ("orchestrator", "repo_store", "hooks") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(sources) > 100
    assert [risk for path in sources for risk in risks(str(path.relative_to(ROOT)), path.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        "def f(data):\n    return msgspec.json.decode(data, type=Description)",
        "def f(data):\n    return msgspec.json.Decoder(Description).decode(data)",
        "def f(value):\n    return msgspec.convert(value, Description)",
    ],
)
def test_a_late_decoder_is_found(line: str) -> None:
    assert len(risks("repo_store/x.py", line)) == 1


MEETING = """
    import sys, threading
    from types import ModuleType

    import msgspec

    from orchestrator.runtime.first_use import convert_first, decoder_of

    inside, on = threading.Event(), threading.Event()

    def slow():
        inside.set()
        on.wait(1.0)  # the other thread would decode now, by the half of what is known of the class
        return int

    authors = ModuleType("authors")
    authors.slow = slow
    sys.modules["authors"] = authors
    exec(
        "import msgspec\\n"
        "class Inner(msgspec.Struct):\\n    number: 'slow()'\\n"
        "class Both(msgspec.Struct):\\n    inner: Inner\\n",
        authors.__dict__,
    )

    BODY = {"inner": {"number": 7}}
    ways = {
        "decode": lambda: decoder_of(authors.Both).decode(msgspec.msgpack.encode(BODY)),
        "convert": lambda: convert_first(BODY, authors.Both),
    }
    found = []

    def second():
        inside.wait()
        threading.Timer(0.2, on.set).start()
        found.append(ways[sys.argv[2]]().inner.number)

    threads = [threading.Thread(target=second), threading.Thread(target=lambda: found.append(ways[sys.argv[1]]().inner.number))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(found)
"""


@pytest.mark.parametrize(("first", "second"), [("decode", "convert"), ("convert", "decode")])
def test_two_threads_meet_at_a_type_and_both_decode(first: str, second: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEETING), first, second],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[7, 7]"), done.stderr
