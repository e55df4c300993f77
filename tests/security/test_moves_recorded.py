"""Every move and deletion of a tag is in the journal, with both object ids, both commits, and who did it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.stories.counter_code import COUNTER
from tests.stories.deployment import Deployment, deployed, wait_until


def moves(deployment: Deployment) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{deployment.place.journal}?mode=ro", uri=True)) as journal:
        facts = [json.loads(fact) for (fact,) in journal.execute("SELECT fact FROM journal ORDER BY seq")]
    return [fact for fact in facts if fact["kind"] == "TagMoved"]


def test_a_tag_that_is_made_moved_or_deleted_by_a_push_or_beside_it_is_recorded(tmp_path: Path) -> None:
    tag = "counter/v1.1.0"
    with deployed(tmp_path) as deployment:
        first = deployment.deploy("counter/v1.0.0", counter=COUNTER)
        second = deployment.deploy(tag, counter=COUNTER.replace("return self", "return 0 + self"))
        deployment.work.git("tag", "-f", "-a", "-m", "back", tag, first)
        annotated = deployment.work.git("rev-parse", f"refs/tags/{tag}").strip()
        assert deployment.push(tag, force=True).returncode == 0
        deployment.git("update-ref", f"refs/tags/{tag}", second)  # beside the hooks
        deployment.call("wake")
        wait_until(lambda: len(moves(deployment)) == 4, "the move is seen")
        assert deployment.push(f":refs/tags/{tag}").returncode == 0
        wait_until(lambda: len(moves(deployment)) == 5, "the deletion is seen")
        me = moves(deployment)[0]["who"]
        assert me not in {"", "refs"}
        shown = [
            (f["before_object_id"], f["before_commit_id"], f["object_id"], f["commit_id"], f["who"] == me)
            for f in moves(deployment)
            if f["tag"] == tag
        ]
    assert shown == [
        (None, None, second, second, True),
        (second, second, annotated, first, True),
        (annotated, first, second, second, False),
        (second, second, None, None, True),
    ]
