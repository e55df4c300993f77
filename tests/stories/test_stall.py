"""A handler that never returns, on a real host: interrupted, and the service goes on."""

from __future__ import annotations

import pytest

from orchestrator.control.client import HostRefused
from tests.stories.deployment import Deployment, wait_until
from tests.stories.test_counter import ONE

SPINS = (
    ONE
    + """
            @handles
            def spin(self) -> None:
                while True:
                    pass
    """
)


def test_a_handler_that_never_returns_is_interrupted_and_named_and_the_host_serves_on(
    deployment: Deployment,
) -> None:
    deployment.stop()
    deployment.place.config_file.write_text("[host]\nstall_s = 0.5\n")
    deployment.start()
    deployment.deploy("counter/v1.0.0", "other/v1.0.0", counter=SPINS, other=ONE)
    host = deployment.status()["host"]
    assert deployment.ask("counter", "tick") == 1

    with pytest.raises(HostRefused, match=r"failed on 'spin': Stalled: .* \(counter/__init__.py line \d+\)"):
        deployment.call("ask", name="counter", type="spin", body={}, timeout_s=20)

    assert deployment.ask("counter", "tick") == 2
    assert deployment.ask("other", "tick") == 1
    assert deployment.status()["host"] == host
    wait_until(lambda: len(deployment.call("dead_letters", action="list")) == 1, "it is in the dead letters")
