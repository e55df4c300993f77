"""The README is true: its blocks are run as they stand, in order, and print what it says they print.

A fence's second word says how a block is run: none - in the one shell of the story; `host` - in a second
terminal; `make` - the set-up, whose targets are only looked up here because one of them runs this test;
`setup` - it puts the command on the path, which the fixture has done. A `text` block that follows another block
directly is what that one prints; `…` stands for any text, and for any lines when it stands alone.
"""

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from livetag import testing
from orchestrator.control.cli.app import execute

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
START_S = 20.0


@dataclass(frozen=True)
class Block:
    how: str
    text: str
    prints: str | None


BLOCKS = [
    Block(how, text, prints or None) for kind, how, text, prints in FENCE.findall(README) if kind == "sh"
]
STORY = [block for block in BLOCKS if block.how == ""]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A user's fresh home, with `livetag` and `python` on the path, and a Git that knows nobody."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, arguments in (("livetag", "-m livetag"), ("python", "")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        tool.chmod(0o755)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GIT_", "LIVETAG_", "EMAIL"))
    }
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    home = tmp_path / "home"
    home.mkdir()
    return {**kept, "HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT), "GIT_CONFIG_NOSYSTEM": "1"}


class Shell:
    """One bash, as a user would keep it open."""

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc", "-e"],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, block: str) -> str:
        """Run `block`; return what it printed. A command in it that fails ends the shell, and the test."""
        stdin, stdout = self._bash.stdin, self._bash.stdout
        assert stdin is not None
        assert stdout is not None
        mark = b"--- the block has ended ---\n"
        stdin.write(block.encode() + b"\necho '" + mark.rstrip() + b"'\n")
        stdin.flush()
        printed = b""
        for line in stdout:
            if line == mark:
                return printed.decode()
            printed += line
        raise AssertionError(f"this block failed:\n{block}\nIt printed:\n{printed.decode()}")

    def close(self) -> None:
        self._bash.communicate(timeout=20)


@pytest.fixture
def shell(env: dict[str, str]) -> Iterator[Shell]:
    shell = Shell(env, Path(env["HOME"]))
    yield shell
    shell.close()


@pytest.fixture
def terminals() -> Iterator[list[subprocess.Popen[bytes]]]:
    """The other terminals of the story; they get Ctrl-C at its end."""
    opened: list[subprocess.Popen[bytes]] = []
    yield opened
    for terminal in opened:
        os.killpg(terminal.pid, signal.SIGINT)
        try:
            terminal.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(terminal.pid, signal.SIGKILL)
            terminal.wait(20)
            raise


def matches(printed: str, expected: str) -> bool:
    """Whether `printed` is what the README shows; see the head of this file."""
    lines = [re.escape(line).replace("…", ".*") for line in expected.splitlines()]
    pattern = "".join("(?:.*\n)*" if line == ".*" else line + "\n" for line in lines)
    return re.fullmatch(pattern, re.sub(r"[ \t]+$", "", printed, flags=re.MULTILINE)) is not None


def started(terminal: subprocess.Popen[bytes], env: dict[str, str]) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and terminal.poll() is None:
        ready = subprocess.run(
            ["livetag", "status", "--dir", f"{env['HOME']}/live"], env=env, capture_output=True, check=False
        )
        if ready.returncode == 0:
            return True
        time.sleep(0.05)
    return False


def test_the_story_of_the_first_module_runs_as_it_stands(
    shell: Shell, env: dict[str, str], terminals: list[subprocess.Popen[bytes]]
) -> None:
    for block in BLOCKS:
        if block.how == "host":
            terminals.append(
                subprocess.Popen(
                    ["bash", "-ec", block.text], env=env, start_new_session=True, stdin=subprocess.DEVNULL
                )
            )
            assert started(terminals[-1], env)
        elif block.how == "":
            printed = shell.run(block.text)
            if block.prints is not None:
                assert matches(printed, block.prints), (
                    f"{block.text}\nprinted:\n{printed}\nnot:\n{block.prints}"
                )


def test_the_two_commands_of_the_set_up_are_targets_of_the_makefile() -> None:
    (setup,) = (block for block in BLOCKS if block.how == "make")
    commands = [line.split() for line in setup.text.splitlines()]
    assert [words[0] for words in commands] == ["make", "make"]
    for _, target in commands:
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_every_block_says_how_it_is_run() -> None:
    assert {block.how for block in BLOCKS} == {"make", "setup", "host", ""}
    assert README.count("```") == 2 * len(re.findall(r"^```(?:sh|text|python)", README, re.MULTILINE))
    assert len(STORY) >= 5


def test_the_example_with_connections_answers_over_a_real_socket() -> None:
    (code,) = (text for kind, _, text, _ in FENCE.findall(README) if kind == "python")
    example = ModuleType("readme_example")
    sys.modules[example.__name__] = example  # its annotations are looked up there
    exec(compile(code, "README.md", "exec"), vars(example))  # noqa: S102  # it is ours

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        async with testing.run(example.Echo, config={"port": port}) as module:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"one\ntw")
            assert await reader.readuntil() == b"one\n"
            await module.upgrade(example.Echo)
            writer.write(b"o\n")
            assert await reader.readuntil() == b"two\n"
            writer.close()

    asyncio.run(story())


def test_every_command_of_the_line_stands_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    execute(["--help"])
    commands = re.findall(r"^│ ([a-z][a-z-]+)  +\S", capsys.readouterr().out, re.MULTILINE)
    assert len(commands) >= 24
    for command in commands:
        assert f"`{command}`" in README


def test_every_folder_of_the_layout_is_there() -> None:
    (layout,) = re.findall(r"## Layout\n\n```text\n(.*?)```", README, re.DOTALL)
    above = ""
    for line in layout.splitlines():
        name = line.split()[0]
        path = name if not line.startswith("  ") else f"{above}{name}"
        above = above if line.startswith("  ") else name
        assert (ROOT / path).exists(), path


def test_the_ellipsis_stands_for_any_text_and_alone_for_any_lines() -> None:
    assert matches("a 12 b\n", "a … b\n")
    assert matches("x\ny\nend\n", "…\nend\n")
    assert not matches("a 12 c\n", "a … b\n")
    assert not matches("x\nend\nmore\n", "…\nend\n")
