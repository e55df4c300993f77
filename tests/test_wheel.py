"""What the wheel ships. Offline: it is built in this process by the build backend, which pip would fetch."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = {"livetag.py", "orchestrator", "repo_store", "hooks", "sample_app"}

pytest.importorskip("hatchling", reason="the build backend is not installed here: pip install hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_ships_the_five_parts_and_never_the_tests(wheel: Path) -> None:
    tops = {name.split("/", 1)[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == SHIPPED


def test_the_wheel_ships_every_source_file_and_no_leftovers(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SHIPPED],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    present = {name for name in tracked if name and (ROOT / name).is_file()}
    assert {name for name in names(wheel) if ".dist-info/" not in name} == present


def test_the_wheel_carries_the_licence_the_command_and_the_python_versions(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name.split(".dist-info/")[-1]: name for name in archive.namelist() if ".dist-info/" in name}
        assert "Apache License" in archive.read(inside["licenses/LICENSE"]).decode()
        assert "livetag = orchestrator.control.cli:main" in archive.read(inside["entry_points.txt"]).decode()
        assert "Requires-Python: >=3.10" in archive.read(inside["METADATA"]).decode()


def test_the_command_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}
    told = "import orchestrator.control.cli as cli; print(cli.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", told], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert where.stdout.startswith(str(tmp_path / "site"))
    done = subprocess.run(
        [sys.executable, "-m", "livetag", "init", "live", "--work", "work"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work" / "modules" / "counter" / "module.toml").is_file()
