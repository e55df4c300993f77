"""A plugin of the pytest that runs over a planted tree: writes down how each test ended, and whose code was imported."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

PRODUCT = {"hooks", "livetag", "orchestrator", "repo_store", "tests"}
REPORT = "LIVETAG_PLANTED_REPORT"

_KIND = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, pytest.TestReport]:
    report: pytest.TestReport = yield
    error = call.excinfo
    kind = error.typename if error is not None else ""
    ends = _ends(item)
    if report.failed or report.when == "call":
        text = f"{error.value}\n{report.longreprtext}" if error is not None else ""
        ends.append(
            {"test": item.nodeid, "when": report.when, "outcome": report.outcome, "error": kind, "text": text}
        )
    return report


def _ends(item: pytest.Item) -> list[dict[str, object]]:
    return item.session.config.stash.setdefault(_ENDS, [])


_ENDS = pytest.StashKey[list[dict[str, object]]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    tree = Path.cwd()
    foreign = [
        f"{name} from {file}"
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] in PRODUCT
        and (file := getattr(module, "__file__", None))
        and not Path(file).is_relative_to(tree)
    ]
    told = {"foreign": foreign, "ends": session.config.stash.get(_ENDS, [])}
    Path(os.environ[REPORT]).write_text(json.dumps(told))
