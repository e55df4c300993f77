"""A Table in a real deployment: pushed, changed, taken back, stopped and started again."""

from __future__ import annotations

from tests.stories.deployment import Deployment, wait_until

V1, V2 = "rib/v1.0.0", "rib/v1.1.0"

FIRST = """
    from livetag import Module, Table, handles

    class Rib(Module):
        routes: Table[str, dict[str, int]] = Table(version=1)

        @handles
        def put(self, key: str, n: int) -> None:
            self.routes[key] = {"n": n}

        @handles
        def look(self, key: str) -> int:
            return self.routes[key]["n"]
"""
SECOND = """
    from livetag import Module, Table, handles

    class Rib(Module):
        routes: Table[str, tuple[int, str]] = Table(version=2)

        @handles
        def put(self, key: str, n: int) -> None:
            self.routes[key] = (n, "new")

        @handles
        def look(self, key: str) -> int:
            return self.routes[key][0]

    @Rib.migrates("routes", 1, 2)
    def up(key, old):
        return (old["n"], "up")
"""
DOWN = """
    @Rib.migrates("routes", 2, 1)
    def down(key, new):
        return {"n": new[0]}
"""


def versions(deployment: Deployment) -> dict[str, int]:
    table = deployment.call("state", name="rib", path="tables")["routes"]
    return {
        "version": table["version"],
        "records": table["records"],
        "left": sum(table.get("to_migrate", {}).values()),
    }


def test_a_table_goes_up_and_down_and_over_restarts(deployment: Deployment) -> None:
    deployment.deploy(V1, rib=FIRST)
    for n in range(30):
        deployment.ask("rib", "put", key=f"k{n}", n=n)

    deployment.write("rib", SECOND)
    deployment.release("rib/v1.0.9")
    done = deployment.push("main", "rib/v1.0.9")
    assert done.returncode == 1
    assert '@Rib.migrates("routes", 2, 1); or say one_way = true in module.toml' in done.stderr
    assert deployment.version("rib") == "1.0.0"

    deployment.deploy(V2, rib=SECOND + DOWN)
    assert deployment.ask("rib", "look", key="k7") == 7
    wait_until(lambda: versions(deployment)["left"] == 0, "the sweep has ended")
    deployment.ask("rib", "put", key="k30", n=30)

    assert deployment.stop() == 0
    deployment.start()
    assert versions(deployment) == {"version": 2, "records": 31, "left": 0}
    assert deployment.call("state", name="rib", path="tables.routes.k30")["shown"] == [
        {"key": "k30", "record": [30, "new"]}
    ]

    deployment.work.tag("rib/v1.2.0", deployment.work.git("rev-parse", f"{V1}^{{commit}}"))
    assert deployment.push("rib/v1.2.0").returncode == 0
    assert deployment.ask("rib", "look", key="k30") == 30
    assert (
        deployment.stop() == 0
    )  # perhaps in mid-conversion: the steps down are in a release that does not come back
    deployment.start()
    assert versions(deployment) == {"version": 1, "records": 31, "left": 0}
    assert [deployment.ask("rib", "look", key=f"k{n}") for n in range(31)] == list(range(31))
