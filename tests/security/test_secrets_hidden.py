"""A module that says its token wherever it can: it is found nowhere that others read."""

from __future__ import annotations

import json
from pathlib import Path

from tests.stories.deployment import deployed

TOKEN = "tok-3f9a\"1c'77"  # with what JSON and repr write otherwise
CODE = """
    from livetag import Module, handles

    class Leaky(Module[dict]):
        def initial_state(self):
            return {"total": 0}

        @handles
        def tick(self) -> int:
            self.log.warning("ticking with {}", self.config["token"])
            raise ValueError(f"no {self.config['token']} for {self.config}")

        async def prepare(self):
            if FAILS:
                raise RuntimeError(f"could not log in with {self.config['token']!r}")
"""


def test_a_token_is_in_no_log_no_journal_no_history_no_answer_and_no_push(tmp_path: Path) -> None:
    with deployed(tmp_path, start=False) as deployment:
        deployment.env["LEAKY_TOKEN"] = TOKEN
        deployment.start()
        deployment.work.write("app.toml", '[modules.leaky]\nconfig = { token = { env = "LEAKY_TOKEN" } }\n')
        deployment.write("leaky", CODE.replace("FAILS", "False"))
        deployment.release("leaky/v1.0.0", "app/v1.0.0")
        done = deployment.push("main", "leaky/v1.0.0", "app/v1.0.0")
        assert done.returncode == 0, done.stderr
        deployment.send("leaky", "tick")
        deployment.call("ping")
        deployment.write("leaky", CODE.replace("FAILS", "True"))
        deployment.release("leaky/v1.1.0")
        refused = deployment.push("leaky/v1.1.0")
        assert refused.returncode == 1
        deployment.write("leaky", CODE.replace("FAILS", "1 > 0"))
        deployment.release("leaky/v1.2.0")
        plan = deployment.call("plan", tag="leaky/v1.2.0", repo=str(deployment.work.path))
        assert "could not log in with" in json.dumps(plan)
        said = {
            "plan": json.dumps(plan),
            "push": refused.stderr,
            "status": json.dumps(deployment.status()),
            "history": json.dumps(deployment.history()),
            "letters": json.dumps(deployment.call("dead_letters", action="list")),
            "interface": json.dumps(deployment.call("interface", name="leaky")),
            "names": json.dumps(deployment.call("names")),
            "git": deployment.git("log", "--all", "--format=%B"),
        }
        deployment.stop()
        said["doctor"] = deployment.livetag("doctor").stdout
        said["terminal"] = deployment.said()
        assert "could not log in with" in said["push"], said["push"]
        assert "(secret)" in said["push"]
        assert "(secret)" in said["letters"]
        assert "(secret)" in said["terminal"]
        for where, text in said.items():
            for part in ("3f9a", "1c'77"):
                assert part not in text, f"{where}: {text}"
        for file in (*deployment.path.glob("journal.db*"), *deployment.place.logs.iterdir()):
            assert b"3f9a" not in file.read_bytes(), file
