import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.control.config import Deployment, DeploymentNotFound, find_deployment, load_config
from repo_store.errors import ManifestInvalid


def made(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "livetag.toml").touch()
    return path


def clone(path: Path, setting: str) -> Path:
    subprocess.run(["git", "init", "--quiet", path], check=True)
    subprocess.run(["git", "-C", path, "config", "livetag.dir", setting], check=True)
    return path


@pytest.fixture
def env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "LIVETAG_"))}


def test_a_deployment_knows_where_its_parts_are() -> None:
    deployment = Deployment(Path("/srv/app"))
    parts = (deployment.store, deployment.stage, deployment.journal, deployment.socket, deployment.logs)
    assert [part.name for part in parts] == ["store.git", "stage", "journal.db", "control.sock", "logs"]
    assert {part.parent for part in parts} == {deployment.path}
    assert deployment.config_file == Path("/srv/app/livetag.toml")


def test_the_deployment_is_named_then_in_the_environment_then_above_then_in_the_clone_s_configuration(
    tmp_path: Path, env: dict[str, str]
) -> None:
    named, variable, above, configured = (made(tmp_path / name) for name in ("a", "b", "c", "d"))
    work = clone(tmp_path / "c" / "work", str(configured))
    elsewhere = clone(tmp_path / "work", str(configured))
    inside = work / "modules" / "counter"
    inside.mkdir(parents=True)
    with_variable = {**env, "LIVETAG_DIR": str(variable)}
    assert find_deployment(named, with_variable, inside).path == named
    assert find_deployment(None, with_variable, inside).path == variable
    assert find_deployment(None, env, inside).path == above
    assert find_deployment(None, env, elsewhere).path == configured


def test_relative_names_are_taken_from_where_one_stands(tmp_path: Path, env: dict[str, str]) -> None:
    path = made(tmp_path / "live")
    assert find_deployment(Path("live"), env, tmp_path).path == path
    assert find_deployment(None, {**env, "LIVETAG_DIR": "../live"}, made(tmp_path / "other")).path == path


def test_a_home_directory_is_written_with_a_tilde(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    env["HOME"] = str(tmp_path)
    path = made(tmp_path / "live")
    assert find_deployment(Path("~/live"), env, Path("/")).path == path
    assert find_deployment(None, env, clone(tmp_path / "work", "~/live")).path == path


def test_a_mistyped_name_never_reaches_another_deployment(tmp_path: Path, env: dict[str, str]) -> None:
    here = made(tmp_path / "here")
    (tmp_path / "empty").mkdir()
    for named, variables in ((Path("../empty"), env), (None, {**env, "LIVETAG_DIR": "../gone"})):
        with pytest.raises(DeploymentNotFound) as refused:
            find_deployment(named, variables, here)
        assert "livetag init" in str(refused.value)


def test_where_there_is_none_the_message_names_all_four_places(tmp_path: Path, env: dict[str, str]) -> None:
    with pytest.raises(DeploymentNotFound) as refused:
        find_deployment(None, env, tmp_path)
    for place in ("--dir", "LIVETAG_DIR", "livetag.toml", "git config livetag.dir", "livetag init"):
        assert place in str(refused.value)


def test_git_s_own_variables_cannot_point_at_another_clone(tmp_path: Path, env: dict[str, str]) -> None:
    right, wrong = made(tmp_path / "right"), made(tmp_path / "wrong")
    misleading = clone(tmp_path / "misleading", str(wrong))
    work = clone(tmp_path / "work", str(right))
    in_a_hook = {
        **env,
        "GIT_DIR": str(misleading / ".git"),
        "GIT_CONFIG_PARAMETERS": f"'livetag.dir'='{wrong}'",
    }
    assert find_deployment(None, in_a_hook, work).path == right


def test_an_empty_livetag_toml_is_all_defaults(tmp_path: Path) -> None:
    config = load_config(Deployment(made(tmp_path / "live")))
    assert (config.host.prereleases, config.host.stall_s, config.policy.mode) == (False, 5.0, "default")


def test_a_wrong_key_in_livetag_toml_is_named_with_its_file(tmp_path: Path) -> None:
    deployment = Deployment(made(tmp_path / "live"))
    deployment.config_file.write_text("[host]\nstal_s = 5\n")
    with pytest.raises(ManifestInvalid) as refused:
        load_config(deployment)
    assert str(deployment.config_file) in str(refused.value)
    assert "stal_s" in str(refused.value)
