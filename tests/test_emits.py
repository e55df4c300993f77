"""What a release says to others, read from its sources without running them (DESIGN §4, `[emits]`)."""

from __future__ import annotations

import textwrap
from pathlib import Path

import msgspec

from orchestrator.runtime.description import Description, Emit
from orchestrator.runtime.schema import UNKNOWN, Schema
from orchestrator.upgrade.emits import completed, declared, scan_folder, scan_source


def scan(source: str) -> list[tuple[str, str, str]]:
    return [(e.how, e.name, e.type) for e in scan_source(textwrap.dedent(source), "m/__init__.py")]


def body(expression: str, above: str = "") -> Schema:
    """What is known of a body that is written like this."""
    (emit,) = scan_source(f"{above}\nself.send('a', 'b', {expression})", "m.py")
    return dict(emit.body)


def test_literal_calls_are_found_with_their_line_whatever_the_order_of_the_arguments() -> None:
    source = """
        class A(Module):
            def one(self):
                self.send("logger", "line", {"n": 1})
            async def two(self):
                return await self.ask(type="total", name="counter", timeout_s=2.0)
            def three(self):
                self.publish("counter.total", {"n": 1})
    """
    found = scan_source(textwrap.dedent(source), "a/__init__.py")
    assert [(e.how, e.name, e.type, e.file, e.line) for e in found] == [
        ("send", "logger", "line", "a/__init__.py", 4),
        ("ask", "counter", "total", "a/__init__.py", 6),
        ("publish", "counter.total", "", "a/__init__.py", 8),
    ]
    assert found[1].body == {"enum": [None]}


def test_a_name_bound_once_at_the_top_is_its_text_and_any_other_is_not_known() -> None:
    assert scan("LOGGER = 'logger'\nLINE: Final = 'line'\nself.send(LOGGER, LINE)") == [
        ("send", "logger", "line")
    ]
    assert scan("LOGGER = 'a'\nLOGGER = 'b'\nself.send(LOGGER, 'line')") == []
    assert scan("LOGGER = 'a'\ndef f(LOGGER): self.send(LOGGER, 'line')") == []
    assert scan("def f(to): self.send(to, 'line')") == []
    assert scan("self.send('a' if x else 'b', 'line')") == [("send", "a", "line"), ("send", "b", "line")]


def test_what_only_looks_like_a_message_is_none() -> None:
    assert scan("conn.send('a', 'b')") == []
    assert scan("self.conn.send('a', 'b')") == []
    assert scan("send('a', 'b')") == []
    assert scan("self.send(*where)") == []
    assert scan("self.send('a', 'b'") == []  # no Python: the import says it better


def test_a_topic_with_values_in_it_is_a_pattern() -> None:
    assert scan("self.publish(f'bgp.{kind}', {})") == [("publish", "bgp.*", "")]
    assert scan("self.publish(f'{kind}.bgp', {})") == []


def test_of_a_body_counts_what_is_literal() -> None:
    assert body("{'a': 1, 'b': x}") == {
        "type": "object",
        "properties": {"a": {"enum": [1]}, "b": UNKNOWN},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    assert body("{'a': 1, **rest, 'b': -2}") == {
        "type": "object",
        "properties": {"a": UNKNOWN, "b": {"enum": [-2]}},
        "required": ["a", "b"],
        "additionalProperties": UNKNOWN,
    }
    assert body("body") == UNKNOWN
    assert body("{1: 2}") == UNKNOWN
    assert body("dict(a=1)") == UNKNOWN
    assert body("A", "A = 'x'") == {"enum": ["x"]}
    assert body("{A: 1}", "A = 'x'")["properties"] == {"x": {"enum": [1]}}
    assert body("f'{x}'") == {"type": "string", "unknown": True}
    assert body("b''") == {"type": "string", "contentEncoding": "base64", "unknown": True}
    assert body("1 if x else None") == {"anyOf": [{"enum": [1]}, {"enum": [None]}]}
    assert body("[1, x]")["prefixItems"] == [{"enum": [1]}, UNKNOWN]
    assert body("[*rest]") == body("[x for x in y]") == {"type": "array", "unknown": True}
    assert body("not x") == {"type": "boolean", "unknown": True}
    assert body("1e999") == {"type": "number", "unknown": True}


def test_what_is_found_can_be_written_down_and_read_again() -> None:
    found = scan_source(
        "self.send('a', 'b', {'n': 1.5, 'x': None, 'big': 99999999999999999999, 't': '\\ud800'})", "m"
    )
    assert msgspec.json.decode(msgspec.json.encode(found), type=list[Emit]) == found


def test_every_file_of_the_release_is_read(tmp_path: Path) -> None:
    for name in ("a/__init__.py", "a/inner/more.py", "wire/__init__.py", "other/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"self.send('x', '{name}')")
    assert [(e.type, e.file) for e in scan_folder(tmp_path, ("a", "wire"))] == [
        (name, name) for name in ("a/__init__.py", "a/inner/more.py", "wire/__init__.py")
    ]


def test_the_manifest_completes_what_was_found() -> None:
    found = (Emit("ask", "clock", "now", {"enum": [None]}, "a.py", 3),)
    named = declared({"clock": ("now", "subscribe"), "topics": ("counter.total",)})
    assert [(e.how, e.name, e.type, e.line) for e in completed(found, named)] == [
        ("ask", "clock", "now", 3),
        ("send", "clock", "subscribe", 0),
        ("publish", "counter.total", "", 0),
    ]


def test_a_description_that_was_stored_before_there_were_emits_is_read() -> None:
    old = b'{"entry":"a:A","handles":{},"subscribes":[],"timers":{},"intakes":[],"state_version":1,"state_schema":{},'
    old += b'"migrations":[]}'
    assert msgspec.json.decode(old, type=Description).emits == ()
