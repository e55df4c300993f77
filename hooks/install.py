"""Put the three hooks into a repository: small shell scripts that name this interpreter and this livetag."""

import re
import shlex
import sys
from pathlib import Path

from hooks.push import say
from repo_store.errors import StoreError
from repo_store.git import GitDoor

HOOKS = ("pre-receive", "proc-receive", "post-receive")
MARK = "# written by livetag"
PROC_RECEIVE_SINCE = (2, 29)

_CONFIG = {
    "core.hooksPath": "hooks",  # a user's own core.hooksPath would otherwise replace ours for his pushes
    "receive.procReceiveRefs": "refs/tags",
    "receive.advertisePushOptions": "true",
}
_SHIM = """\
#!/bin/sh
{mark}; `python -m hooks install STORE` writes it anew, for instance for another interpreter
if [ ! -x {python} ] || [ ! -f {main} ]; then
    echo "livetag is not where this repository expects it:" {python} {main} >&2
    echo "Nothing was changed. On the host, run: python -m hooks install STORE" >&2
    exit 1
fi
{body}
"""
_RUN = "exec {python} -I {main} {hook}"
# Where proc-receive has handled the tags, a push of tags alone costs no second start of Python.
_RUN_FOR_BRANCHES = """\
rest=
while read -r old new ref; do
    case "$ref" in
    refs/tags/*) ;;
    *) rest="$rest$old $new $ref
" ;;
    esac
done
[ -n "$rest" ] || exit 0
printf %s "$rest" | {python} -I {main} {hook}
"""


class HooksRefused(Exception):
    """The hooks were not installed, and nothing was changed."""


def main(store: str) -> int:
    """Install into the repository at `store`, saying what is lacking."""
    try:
        for lacking in install(Path(store)):
            say(lacking)
    except (HooksRefused, StoreError) as error:
        say(str(error))
        return 1
    return 0


def install(store: Path, python: Path | None = None) -> list[str]:
    """Write the hooks of the bare repository `store`; return sentences on what they lack to do all they can.

    Installing again renews them. Raises HooksRefused if a hook of somebody else is in the way, GitFailed.
    """
    store = store.resolve()
    folder = store / "hooks"
    for hook in HOOKS:
        if (folder / hook).exists() and MARK not in (folder / hook).read_text(errors="replace"):
            raise HooksRefused(
                f"{folder / hook} is not livetag's. Move it away and install again; nothing was changed."
            )
    with GitDoor(store) as door:
        version = _git_version(door)
        for key, value in _CONFIG.items():
            door.run("config", "--replace-all", key, value)
    folder.mkdir(exist_ok=True)
    waits = version >= PROC_RECEIVE_SINCE
    for hook in HOOKS:
        _write(folder / hook, _shim(hook, python or Path(sys.executable), tags_are_handled=waits))
    return [] if waits else [_too_old(version)]


def _shim(hook: str, python: Path, *, tags_are_handled: bool) -> str:
    places = {
        "python": shlex.quote(
            str(python.absolute())
        ),  # not resolved: a virtual environment is known by its own path
        "main": shlex.quote(str(Path(__file__).with_name("__main__.py").resolve())),
    }
    body = _RUN_FOR_BRANCHES if hook == "post-receive" and tags_are_handled else _RUN
    return _SHIM.format(mark=MARK, body=body.format(hook=hook, **places), **places)


def _write(path: Path, text: str) -> None:
    born = path.with_name(
        f".{path.name}.new"
    )  # renamed into place: a push meanwhile sees the old one or the new one
    born.write_text(text)
    born.chmod(0o755)
    born.replace(path)


def _git_version(door: GitDoor) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", door.run("--version").decode("utf-8", "replace"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _too_old(version: tuple[int, int]) -> str:
    return (
        f"git {version[0]}.{version[1]} has no proc-receive hook (it came with 2.29): a push cannot wait for "
        "the outcome, and a tag whose release failed stays, in quarantine; `livetag history` shows the outcome. "
        "Install git 2.29 or later, then run: python -m hooks install STORE"
    )
