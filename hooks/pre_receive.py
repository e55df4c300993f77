"""pre-receive: judges a push before any of it is in the repository. Nothing of the push is executed.

It refuses what can never go live (DESIGN §4), so that the pusher learns it at once and the host never sees
it. What needs the running application (versions, interfaces, a trial) is the host's to judge, after proc-receive.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from hooks.push import (
    PLAN,
    Command,
    NotRunByGit,
    Place,
    options_in,
    options_problem,
    pusher,
    read_commands,
    say,
    says_policy,
)
from repo_store.errors import PolicyUnreadable
from repo_store.trusted import read_trusted

RESERVED = ("refs/heads/deployments", "refs/live", "refs/keep")
EPILOGUE = (
    "Nothing of this push was taken; what is in service serves on. Put it right and push again "
    "(git commit, git tag -f, git push): a tag that was refused is still free."
)


def main(stream: BinaryIO, environ: Mapping[str, str]) -> int:
    """Return 0 to let the push through, 1 to refuse all of it, having said why for each ref."""
    try:
        place = Place.of(environ)
        problems = list(_problems(read_commands(stream), options_in(environ), place, environ))
    except (NotRunByGit, ValueError) as error:
        problems = [f"livetag: {error}."]
    if not problems:
        return 0
    for problem in problems:
        say(problem)
    say(EPILOGUE)
    return 1


def _problems(
    commands: Sequence[Command], options: Sequence[str], place: Place, environ: Mapping[str, str]
) -> Iterator[str]:
    problem = options_problem(options)
    if problem is not None:
        yield problem
    elif PLAN in options and not all(command.is_tag for command in commands):
        yield "refused: `-o plan` changes nothing, so push only tags with it; Git would write the branches."
    for command in commands:
        if any(command.ref == name or command.ref.startswith(name + "/") for name in RESERVED):
            yield f"refused: {command.ref}: only the host writes this ref; it tells what was live."
    try:
        config = read_trusted(place.store.parent / "livetag.toml")
    except PolicyUnreadable as error:
        yield f"refused: {error}"
        return
    if config is not None and says_policy(config):
        from hooks.permission import permission_problems

        yield from permission_problems(commands, place.store, environ, pusher(environ))
    tags = [command for command in commands if command.is_tag and command.new is not None]
    if tags:
        from hooks.release_check import tag_problems  # a push of branches need not wait for this import

        yield from tag_problems(tags, place.store, environ)
