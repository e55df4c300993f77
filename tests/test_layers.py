"""The imports of DESIGN §2, as the contracts in pyproject.toml state them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=root, env=env, capture_output=True, text=True, check=False
    )


def test_imports_point_one_way() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        (
            "orchestrator/runtime/names.py",
            "import orchestrator.upgrade.phases",
            "control → upgrade → runtime",
        ),
        ("orchestrator/runtime/names.py", "import repo_store.git", "the runtime knows nothing"),
        ("repo_store/manifest.py", "import orchestrator.runtime.message", "repo_store knows Git"),
        ("hooks/push.py", "import orchestrator.control.server", "hooks know the store"),
        ("orchestrator/control/client.py", "import loguru", "hooks know the store"),
        ("repo_store/release.py", "import os", "do no I/O"),
    ],
)
def test_an_import_the_wrong_way_is_found(tmp_path: Path, file: str, line: str, broken: str) -> None:
    for name in ("orchestrator", "repo_store", "hooks"):
        for source in (ROOT / name).rglob("*.py"):
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (tmp_path / file).write_text((tmp_path / file).read_text() + f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    verdicts = [text for text in done.stdout.splitlines() if "BROKEN" in text]
    assert any(broken in verdict for verdict in verdicts), done.stdout
