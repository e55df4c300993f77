"""A COMMITTED that cannot be written: the new versions serve, nothing else goes live, and the restart decides."""

from __future__ import annotations

import pytest

from tests.crash.conftest import Bases
from tests.crash.scenarios import DEPLOY, FIVE, all_in
from tests.crash.victim import run, voice


@pytest.mark.parametrize(
    ("plan", "resolved"),
    [("journal.sync:before 4 eio", "rolled_back"), ("journal.sync:after 4 eio", "committed")],
)
def test_in_doubt_is_said_until_the_restart_has_found_what_is_true(
    bases: Bases, plan: str, resolved: str
) -> None:
    with bases.victim(DEPLOY) as victim:
        assert run(victim, DEPLOY, plan) == "lived"
        status = victim.status()
        assert status["transaction"]["phase"] == "in_doubt"
        assert victim.history()[0]["outcome"] == "in_doubt"
        assert victim.ask("hen", "loaded") == "1.1.0 calm", "the new ones serve on"
        assert set(FIVE) <= set(victim.tags()), "what is not known is not taken back"
        said = victim.livetag("deploy", "hen/v1.1.0")
        assert "in doubt" in said.stdout + said.stderr

        victim.write("egg", voice("1.2.0"))
        victim.release("egg/v1.2.0")
        pushed = victim.push("egg/v1.2.0")
        assert pushed.returncode == 1
        assert "cannot record anything, so it deploys nothing" in pushed.stderr
        assert "egg/v1.2.0" not in victim.tags()

        victim.stop()
        victim.calm()
        if resolved == "rolled_back":
            victim.git("tag", "-d", *FIVE)  # so that the old ones are seen to serve
        victim.start()
        newest = victim.history()[0]
        assert newest["outcome"] == resolved
        if resolved == "rolled_back":
            assert newest["reason"].startswith("it was in doubt")
            assert victim.status()["quarantine"] == []
        assert victim.serves() == all_in("1.0.0" if resolved == "rolled_back" else "1.1.0")
        pushed = victim.push("main", "egg/v1.2.0")
        assert pushed.returncode == 0, pushed.stderr
