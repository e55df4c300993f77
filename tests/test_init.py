import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.control.config import load_config
from orchestrator.control.init import InitRefused, create, next_lines
from orchestrator.control.starter import FILES
from repo_store.store import RepoStore

ROOT = Path(__file__).parents[1]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A fresh machine: Git knows nobody, and has no configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "EMAIL"))}
    home = tmp_path / "home"
    home.mkdir()
    return {**kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"}


def git(where: Path, *args: str) -> str:
    return subprocess.run(
        ["git", "-C", where, *args], check=True, capture_output=True, text=True
    ).stdout.strip()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_deployment_has_a_store_with_hooks_and_is_its_owner_s_alone(
    tmp_path: Path, env: dict[str, str]
) -> None:
    deployment, remarks = create(tmp_path / "a" / "live", None, env)
    assert remarks == []
    assert mode(deployment.path) == mode(deployment.stage) == mode(deployment.logs) == 0o700
    assert mode(deployment.config_file) == 0o600
    assert git(deployment.store, "rev-parse", "--is-bare-repository") == "true"
    for hook in ("pre-receive", "proc-receive", "post-receive"):
        assert os.access(deployment.store / "hooks" / hook, os.X_OK)
    with RepoStore.open(deployment.store) as store:
        assert store.refs() == {}


def test_the_livetag_toml_of_a_new_deployment_is_valid_as_it_is_and_with_every_key_uncommented(
    tmp_path: Path, env: dict[str, str]
) -> None:
    deployment, _ = create(tmp_path / "live", None, env)
    defaults = load_config(deployment)
    text = deployment.config_file.read_text()
    deployment.config_file.write_text(text.replace("\n# ", "\n"))
    uncommented = load_config(deployment)
    assert uncommented.control.group == "ops"
    assert (uncommented.host, uncommented.policy, uncommented.trial) == (
        defaults.host,
        defaults.policy,
        defaults.trial,
    )


def test_a_clone_has_a_first_module_its_test_its_tag_and_knows_its_deployment(
    tmp_path: Path, env: dict[str, str]
) -> None:
    deployment, _ = create(tmp_path / "live", tmp_path / "work", env)
    work = tmp_path / "work"
    assert git(work, "remote", "get-url", "live") == str(deployment.store)
    assert git(work, "config", "livetag.dir") == str(deployment.path)
    assert git(work, "status", "--porcelain") == ""
    assert sorted(git(work, "ls-files").split()) == sorted(name for name, _ in FILES)
    assert git(work, "rev-parse", "counter/v1.0.0^{commit}") == git(work, "rev-parse", "main")


def test_the_first_module_s_own_test_passes(tmp_path: Path, env: dict[str, str]) -> None:
    create(tmp_path / "live", tmp_path / "work", env)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "work",
        env={**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_where_git_knows_nobody_the_clone_gets_an_author_and_says_so(
    tmp_path: Path, env: dict[str, str]
) -> None:
    env["HOSTNAME"] = "localhost"
    (tmp_path / "home" / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    _, remarks = create(tmp_path / "live", tmp_path / "work", env)
    assert len(remarks) == 1
    assert "git config user.name" in remarks[0]
    assert git(tmp_path / "work", "config", "--local", "user.email").endswith("@localhost")


def test_a_user_s_own_name_is_used_and_left_alone(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "home" / ".gitconfig").write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n")
    _, remarks = create(tmp_path / "live", tmp_path / "work", env)
    assert remarks == []
    assert git(tmp_path / "work", "log", "-1", "--format=%an <%ae>") == "Ada <ada@example.org>"


def test_a_user_s_signing_rules_and_hooks_do_not_stop_the_first_commit(
    tmp_path: Path, env: dict[str, str]
) -> None:
    hooks = tmp_path / "home" / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    (tmp_path / "home" / ".gitconfig").write_text(
        f"[user]\n\tname = Ada\n\temail = ada@example.org\n[core]\n\thooksPath = {hooks}\n"
        "[commit]\n\tgpgSign = true\n[tag]\n\tgpgSign = true\n[gpg]\n\tprogram = /bin/false\n"
    )
    create(tmp_path / "live", tmp_path / "work", env)
    assert git(tmp_path / "work", "tag") == "counter/v1.0.0"


def test_init_works_from_within_a_hook_s_environment(tmp_path: Path, env: dict[str, str]) -> None:
    env |= {
        "GIT_DIR": str(tmp_path / "elsewhere"),
        "GIT_WORK_TREE": str(tmp_path),
        "GIT_INDEX_FILE": "/nonexistent/index",
    }
    create(tmp_path / "live", tmp_path / "work", env)
    assert git(tmp_path / "work", "tag") == "counter/v1.0.0"


def test_the_clone_fetches_the_history_under_the_store_s_own_names(
    tmp_path: Path, env: dict[str, str]
) -> None:
    deployment, _ = create(tmp_path / "live", tmp_path / "work", env)
    work = tmp_path / "work"
    git(work, "fetch", "live")  # before the first deployment there is nothing to fetch, which is no error
    tree = git(deployment.store, "hash-object", "-t", "tree", "-w", "/dev/null")
    entry = git(
        deployment.store,
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "commit-tree",
        "-m",
        "counter 1.0.0",
        tree,
    )
    git(deployment.store, "update-ref", "refs/heads/deployments", entry)
    git(deployment.store, "update-ref", "refs/live/counter", entry)
    git(work, "fetch", "live")
    assert git(work, "log", "--format=%s", "deployments") == "counter 1.0.0"
    assert git(work, "log", "--format=%s", "refs/live/counter") == "counter 1.0.0"


@pytest.mark.parametrize("there", ["file", "deployment", "full"])
def test_a_place_that_is_taken_is_refused_and_left_as_it_was(
    tmp_path: Path, env: dict[str, str], there: str
) -> None:
    place = tmp_path / "live"
    if there == "file":
        place.write_text("mine")
    elif there == "deployment":
        create(place, None, env)
    else:
        place.mkdir()
        (place / "mine").touch()
    before = sorted(place.rglob("*"))
    with pytest.raises(InitRefused, match=str(place)):
        create(place, tmp_path / "work", env)
    assert sorted(place.rglob("*")) == before
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(("directory", "work"), [("a", "a"), ("a", "a/work"), ("a/live", "a")])
def test_clone_and_deployment_may_not_lie_in_one_another(
    tmp_path: Path, env: dict[str, str], directory: str, work: str
) -> None:
    with pytest.raises(InitRefused):
        create(tmp_path / directory, tmp_path / work, env)
    assert not (tmp_path / "a").exists()


def test_when_the_clone_cannot_be_made_no_deployment_is_left_either(
    tmp_path: Path, env: dict[str, str]
) -> None:
    (tmp_path / "home" / ".gitconfig").write_text("[init]\n\ttemplateDir = /nonexistent\n[core\n")  # broken
    (tmp_path / "live").mkdir()
    with pytest.raises(Exception, match=r"gitconfig|config"):
        create(tmp_path / "live", tmp_path / "work", env)
    assert list((tmp_path / "live").iterdir()) == []
    assert not (tmp_path / "work").exists()


def test_the_three_lines_to_type_next_survive_spaces_in_names(tmp_path: Path, env: dict[str, str]) -> None:
    deployment, _ = create(tmp_path / "my live", tmp_path / "my work", env)
    run, push, ask = next_lines(tmp_path / "my work", deployment)
    assert shlex.split(run)[-2:] == [str(deployment.path), "&"]
    assert shlex.split(push)[:2] == ["cd", str(tmp_path / "my work")]
    assert push.endswith("git push live main counter/v1.0.0")
    assert ask.endswith("ask counter tick key=apples by:=3")
