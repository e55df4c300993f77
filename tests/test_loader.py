"""Two versions of one package side by side, and nothing left of one that is unloaded."""

from __future__ import annotations

import asyncio
import gc
import inspect
import linecache
import logging
import pickle
import sys
import textwrap
import traceback
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from orchestrator.runtime.errors import HandlerFailed, LoadFailed
from orchestrator.runtime.implementation import Implementation
from orchestrator.runtime.loader import Loaded, author_line, load_blueprint
from tests.runtime_kit import Plain, idle, running

COUNTER = {
    "__init__.py": """
        from __future__ import annotations
        import dataclasses, logging
        from typing import TypedDict
        from livetag import Module, handles
        from counter.parts import VERSION, Part
        from . import parts
        from .deep.down import bottom
        import counter.parts as by_name
        import counter.deep.down

        log = logging.getLogger(__name__)

        class State(TypedDict):
            total: int
            part: str

        class Counter(Module[State]):
            def initial_state(self) -> State:
                return {"total": 0, "part": ""}

            @handles
            def version_(self) -> list[str]:
                from counter.lazy import late          # lazy, absolute
                from .lazy import late as again        # lazy, relative
                import counter.lazy as module
                down = counter.deep.down.bottom
                return [VERSION, parts.VERSION, by_name.VERSION, down(), bottom(), late(), again(), module.late()]

            @handles
            def part(self, part: dict[str, int]) -> int:
                return Part(**part).n

            @handles
            def typed(self, state: State) -> str:
                return state["part"]

            @handles
            def fail(self) -> None:
                parts.fail()
        """,
    "parts.py": """
        from dataclasses import dataclass, field
        from typing import Optional, NamedTuple
        VERSION = "{version}"

        @dataclass
        class Part:
            n: int = 0
            next: Optional["Part"] = None
            names: list[str] = field(default_factory=list)

        class Pair(NamedTuple):
            a: int
            b: "Part"

        def fail() -> None:
            raise ValueError("in {version}")
        """,
    "lazy.py": """
        from counter.parts import VERSION
        def late() -> str:
            return VERSION
        """,
    "deep/__init__.py": "",
    "deep/down.py": """
        from ..parts import VERSION
        from counter import parts
        def bottom() -> str:
            assert parts.VERSION == VERSION
            return VERSION
        """,
}


class Empty(Plain):
    """The module before any version of it is loaded."""


def write(folder: Path, files: dict[str, str], version: str = "") -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).replace("{version}", version))
    return folder


@pytest.fixture
def loads(tmp_path: Path) -> Iterator[Any]:
    loaded: list[Loaded] = []

    def load(version: str, *tops: str) -> Loaded:
        root = tmp_path / version
        if not root.exists():
            write(root / "counter", COUNTER, version)
        loaded.append(Loaded(root, tops or ("counter",), version * 40))
        return loaded[-1]

    yield load
    for each in loaded:
        each.unload()


def test_each_version_sees_only_itself_however_it_imports(loads: Any) -> None:
    async def story() -> None:
        classes = {}
        for version in ("1", "2"):
            blueprint, entry = load_blueprint(loads(version), "counter", None)
            assert entry == "counter:Counter"
            classes[f"v{version}"] = blueprint.cls
        async with running(classes) as app:
            for version in ("1", "2", "1"):
                assert await app.ask(f"v{version}", "version_") == [version] * 8
            assert await app.ask("v1", "typed", {"total": 1, "part": "x"}) == "x"

    asyncio.run(story())
    assert "counter" not in sys.modules


def test_the_same_tree_may_be_loaded_twice(loads: Any) -> None:
    first, second = loads("1"), loads("1")
    one, _ = load_blueprint(first, "counter", None)
    two, _ = load_blueprint(second, "counter", None)
    assert one.cls is not two.cls
    first.unload()
    assert second.import_top("counter.lazy").late() == "1"


def test_dataclasses_type_hints_pickling_and_inspection_work_within_a_version(loads: Any) -> None:
    old, new = loads("1").import_top("counter.parts"), loads("2").import_top("counter.parts")
    for module, version in ((old, "1"), (new, "2")):
        part = module.Part(1, module.Part(2), ["x"])
        assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301  # our own bytes
        assert type(pickle.loads(pickle.dumps(part))) is module.Part  # noqa: S301
        assert get_type_hints(module.Part)["next"] == module.Part | None
        assert get_type_hints(module.Pair)["b"] is module.Part
        assert "class Part:" in inspect.getsource(module.Part)
        fail = module.fail
        assert inspect.getmodule(fail) is module
        with pytest.raises(ValueError, match=f"in {version}") as caught:
            fail()
        text = "".join(traceback.format_exception(None, caught.value, caught.tb))
        assert f'raise ValueError("in {version}")' in text
    assert old.Part(1) != new.Part(1)


def test_shared_folders_belong_to_the_version(tmp_path: Path) -> None:
    loads = []
    for version in ("1", "2"):
        root = tmp_path / version
        write(
            root / "wire",
            {"__init__.py": "from wire.base import WORD", "base.py": 'WORD = "{version}"'},
            version,
        )
        write(
            root / "m",
            {
                "__init__.py": """
                    from livetag import Module, handles
                    import wire, wire.base
                    from wire import WORD
                    class M(Module[dict]):
                        @handles
                        def word(self) -> list[str]:
                            from wire.base import WORD as late
                            return [WORD, wire.WORD, wire.base.WORD, late]
                    """
            },
        )
        loads.append(Loaded(root, ("m", "wire"), version * 40))
    classes = {f"v{n}": load_blueprint(loaded, "m", None)[0].cls for n, loaded in enumerate(loads, 1)}

    async def story() -> None:
        async with running(classes) as app:
            assert await app.ask("v1", "word") == ["1"] * 4
            assert await app.ask("v2", "word") == ["2"] * 4

    asyncio.run(story())
    for loaded in loads:
        loaded.unload()


def test_unloading_fifty_versions_leaves_nothing_alive(tmp_path: Path) -> None:
    finders, modules = len(sys.meta_path), set(sys.modules)
    gone: list[weakref.ref[Any]] = []

    async def story() -> None:
        root = write(tmp_path / "1" / "counter", COUNTER, "1").parent
        loaded: Loaded | None = None
        async with running({"counter": Empty}) as app:
            proxy = app.modules["counter"]
            for number in range(50):
                next_loaded = Loaded(root, ("counter",), f"{number:040x}")
                blueprint, entry = load_blueprint(next_loaded, "counter", None)
                new = Implementation(
                    blueprint,
                    name="counter",
                    version=f"{number}.0.0",
                    config={},
                    loaded=next_loaded,
                    entry=entry,
                )
                proxy.serve(new, {"total": number, "part": "x"})
                if loaded is not None:
                    loaded.unload()
                if number < 49:
                    gone.extend((weakref.ref(new.instance), weakref.ref(new.blueprint.cls)))
                loaded = next_loaded
                del new, blueprint
                await app.ask("counter", "version_")
                await app.ask("counter", "part", {"n": number})
                with pytest.raises(HandlerFailed):
                    await app.ask("counter", "fail")
                await app.send("counter", "fail")
                await idle(app)
            gc.collect()
            assert [ref() for ref in gone if ref() is not None] == []
            assert len(app.letters) == 100
        assert loaded is not None
        loaded.unload()

    asyncio.run(story())
    gc.collect()
    assert len(sys.meta_path) == finders
    assert not [name for name in set(sys.modules) - modules if name.startswith("counter")]
    assert not [name for name in logging.root.manager.loggerDict if name.startswith("counter__")]
    assert not [path for path in linecache.cache if str(path).startswith(str(tmp_path))]
    assert not [path for path in sys.path_importer_cache if path.startswith(str(tmp_path))]


MODULE = "from livetag import Module\nclass {name}(Module[dict]): ...\n"


@pytest.mark.parametrize(
    ("source", "entry", "says"),
    [
        ("import sys\nsys.exit(3)", None, r"importing m raised SystemExit: 3 \(m/__init__\.py line 2\)"),
        ("raise KeyboardInterrupt", None, r"importing m raised KeyboardInterrupt \(m/__init__\.py line 1\)"),
        ("\n\n1 / 0", None, r"ZeroDivisionError: division by zero \(m/__init__\.py line 3\)"),
        ("import nowhere_at_all", None, r"ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("import m.missing", None, r"ModuleNotFoundError: No module named 'm\.missing'"),
        ("from m import missing", None, r"ImportError: cannot import name 'missing' from .*'m'"),
        ("def f(:\n", None, r"SyntaxError: .*__init__\.py, line 1.*__init__\.py line 1"),
        ("class E(Exception):\n    def __str__(self): 1/0\nraise E", None, r"E \(its text cannot be shown\)"),
        ("x = 1", None, 'must define exactly one Module class, found: none.*entry = "m:ClassName"'),
        (MODULE.format(name="A") + MODULE.format(name="B"), None, "exactly one Module class, found: A, B"),
        (MODULE.format(name="A"), "m:B", "m has no Module class 'B'"),
        (MODULE.format(name="A"), "m:Module", "m has no Module class 'Module'"),
        (MODULE.format(name="A"), "m", "m has no Module class ''"),
        (MODULE.format(name="A"), "other:A", "is outside the package m"),
        (MODULE.format(name="A"), "m.sub:A", "No module named 'm.sub'"),
        (
            "from livetag import Module\nclass A(Module[dict]):\n  def __init__(self): ...",
            None,
            "A has an __init__ of its own",
        ),
    ],
)
def test_a_package_that_cannot_be_loaded_says_why_and_leaves_nothing(
    tmp_path: Path, source: str, entry: str | None, says: str
) -> None:
    before = (set(sys.modules), list(sys.meta_path))
    write(tmp_path / "m", {"__init__.py": ""})
    (tmp_path / "m" / "__init__.py").write_text(source)
    with pytest.raises(LoadFailed, match=says) as caught:
        load_blueprint(Loaded(tmp_path, ("m",), "a" * 40), "m", entry)
    assert "__aaaa" not in str(caught.value), "the alias is nobody's business"
    assert not [name for name in set(sys.modules) - before[0] if name.startswith("m__")]
    assert list(sys.meta_path) == before[1]


def test_the_entry_is_found_among_a_base_and_what_is_imported(tmp_path: Path) -> None:
    write(
        tmp_path / "m",
        {
            "__init__.py": "from livetag import Module\nfrom .impl import Real\n",
            "impl.py": "from livetag import Module\nclass Base(Module[dict]): ...\nclass Real(Base): ...\n",
        },
    )
    for entry in (None, "m.impl:Real", "m:Real"):
        loaded = Loaded(tmp_path, ("m",), "a" * 40)
        blueprint, found = load_blueprint(loaded, "m", entry)
        assert blueprint.cls.__name__ == "Real"
        assert found == (entry or "m.impl:Real")
        loaded.unload()


def test_a_folder_without_init_is_a_package_of_the_version_too(tmp_path: Path) -> None:
    for version in ("1", "2"):
        write(
            tmp_path / version / "m",
            {"__init__.py": "from m.sub.x import X", "sub/x.py": "X = '{version}'"},
            version,
        )
    loads = [Loaded(tmp_path / version, ("m",), version * 40) for version in ("1", "2")]
    assert [loaded.import_top("m").X for loaded in loads] == ["1", "2"]
    for loaded in loads:
        loaded.unload()


def test_the_authors_line_is_the_innermost_of_the_version(loads: Any) -> None:
    loaded = loads("1")
    with pytest.raises(ValueError, match="in 1") as caught:
        loaded.import_top("counter.parts").fail()
    assert author_line(caught.value, loaded) == "counter/parts.py line 17"
    assert author_line(caught.value).startswith("parts.py line")
    assert author_line(ValueError("never raised")) == "no line known"
    assert author_line(SyntaxError("x", ("a.py", 3, 1, ""))) == "a.py line 3"
