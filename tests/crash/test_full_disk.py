"""A disk that is really full, at four moments: the host serves on or ends with words, and is right once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash.aftermath import wrong
from tests.crash.victim import Victim, voice
from tests.stories.deployment import wait_until

SIZE = "24m"
FILLER = "filler"
FILLS = """
            def take_over(self, resources):
                import os, sys
                disk = {disk!r}
                if "orchestrator.control.host" not in sys.modules or not os.path.exists(disk + "/fill"):
                    return
                file = os.open(disk + "/filler", os.O_WRONLY | os.O_CREAT)
                try:
                    while True:
                        os.write(file, bytes(1 << 16))
                except OSError:
                    os.close(file)
"""


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    """A deployment on a small disk of its own, with hen 1.0.0 in service."""
    disk = tmp_path / "d"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        made = Victim(tmp_path)
        made.calm()
        made.trace_file.unlink()
        try:
            made.start()
            made.deploy("hen/v1.0.0", hen=voice("1.0.0"))
            yield made
        finally:
            made.close()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(victim: Victim, *, leave: int = 0) -> None:
    """Fill the disk to the brim, or to that many bytes below it."""
    file = os.open(victim.path / FILLER, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while shutil.disk_usage(victim.path).free > leave:
            os.write(file, bytes(min(1 << 16, max(1, shutil.disk_usage(victim.path).free - leave))))
    os.close(file)


def make_room(victim: Victim) -> None:
    (victim.path / FILLER).unlink()


def all_is_well(victim: Victim, version: str) -> None:
    """That version serves, also after a restart; another goes live; the doctor has nothing to say."""
    for _ in (1, 2):
        assert victim.ask("hen", "loaded").startswith(version)
        assert victim.stop() == 0
        victim.start()
    victim.go_further("hen/v1.9.0")
    assert victim.stop() == 0
    assert [each for each in wrong(victim) if not each.startswith("disk")] == []  # it is a small one


def test_a_push_onto_a_full_disk_fails_and_the_same_push_goes_live_once_there_is_room(victim: Victim) -> None:
    victim.write("hen", voice("1.1.0"))
    victim.release("hen/v1.1.0")
    fill(victim)
    pushed = victim.push("main", "hen/v1.1.0")
    assert pushed.returncode == 1
    assert victim.ask("hen", "loaded").startswith("1.0.0")
    assert "hen/v1.1.0" not in victim.tags()
    make_room(victim)
    pushed = victim.push("main", "hen/v1.1.0")
    assert pushed.returncode == 0, pushed.stderr
    all_is_well(victim, "1.1.0")


def test_a_disk_that_fills_while_a_release_is_staged_holds_it_up_until_there_is_room(victim: Victim) -> None:
    victim.write("hen", voice("1.1.0"))
    (victim.work.path / "modules" / "hen" / "large.bin").write_bytes(
        bytes(6 << 20)
    )  # small in Git, large in stage/
    victim.release("hen/v1.1.0")
    fill(victim, leave=3 << 20)
    pushing = victim.begin_push("main", "hen/v1.1.0")
    wait_until(lambda: "could not be staged" in victim.said(), "the stage is full", 60.0)
    assert victim.ask("hen", "loaded").startswith("1.0.0")
    make_room(victim)
    said, _ = pushing.communicate(timeout=60)
    assert pushing.returncode == 0, said
    all_is_well(victim, "1.1.0")


def test_a_disk_that_is_full_at_the_decision_leaves_it_in_doubt_until_a_restart_with_room(
    victim: Victim,
) -> None:
    (victim.path / "fill").touch()
    victim.write(
        "hen",
        {
            "__init__.py": voice("1.1.0") + FILLS.format(disk=str(victim.path)),
            "module.toml": "[limits]\npause_ms = 5000.0\n",
        },
    )
    victim.release("hen/v1.1.0")
    pushed = victim.push("main", "hen/v1.1.0")
    assert pushed.returncode == 0 or "in doubt" in pushed.stderr, pushed.stderr
    assert victim.history()[0]["outcome"] == "in_doubt"
    assert victim.ask("hen", "loaded").startswith("1.1.0"), "what serves serves on"
    assert "disk" in victim.status()["problem"]
    (victim.path / "fill").unlink()
    make_room(victim)
    assert victim.stop() == 1, "nothing could be saved"
    victim.start()
    assert victim.history()[-1]["outcome"] == "committed"
    wait_until(lambda: victim.version("hen") == "1.1.0", "its tag still asks for it", 60.0)
    assert victim.status()["quarantine"] == []
    all_is_well(victim, "1.1.0")


def test_a_stop_on_a_full_disk_says_that_nothing_was_saved_and_the_next_start_serves(victim: Victim) -> None:
    fill(victim)
    assert victim.stop() == 1
    assert "stopped without saving state and mailboxes" in victim.said()
    make_room(victim)
    victim.start()
    assert victim.ask("hen", "told") == {"asked": 0, "notes": []}
    all_is_well(victim, "1.0.0")
