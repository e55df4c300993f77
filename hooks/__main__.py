"""`python -m hooks pre-receive|proc-receive|post-receive`, and `python -m hooks install STORE`.

The shims start this file by its path and with `python -I`, so that neither the pusher's environment nor the
current directory chooses what is imported; the folder it lies in is put on the path here.
"""

import contextlib
import gc
import os
import sys


def main(arguments: list[str]) -> int:
    """Run one hook; a bug in it refuses the push in one line instead of a page."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib costs 4 ms
    if root not in sys.path:
        sys.path.insert(0, root)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    try:
        return _run(name, rest)
    except Exception as error:  # Git shows what is on stderr, and a traceback helps no pusher
        from hooks.push import say
        from repo_store.errors import StoreError
        from repo_store.failpoints import FailpointsRefused

        if isinstance(error, FailpointsRefused):
            say(f"livetag: {error}")
            return 1
        if isinstance(error, StoreError):
            say(
                f"livetag: the repository could not be read: {error} Look at it with `git fsck`, and push again."
            )
            return 1
        say(
            f"livetag's {name} hook failed: {type(error).__name__}: {error}. This is a bug; please report it."
        )
        if os.environ.get("LIVETAG_DEBUG"):
            raise
        return 3


def _run(name: str, rest: list[str]) -> int:
    if os.environ.get("LIVETAG_FAILPOINTS"):
        from hooks.push import Place
        from repo_store.failpoints import arm

        arm(Place.of(os.environ).store.parent, os.environ)
    if name == "pre-receive":
        from hooks import pre_receive

        return pre_receive.main(sys.stdin.buffer, os.environ)
    if name == "proc-receive":
        from hooks import proc_receive

        return proc_receive.main(sys.stdin.buffer, sys.stdout.buffer, os.environ)
    if name == "post-receive":
        from hooks import post_receive

        return post_receive.main(sys.stdin.buffer, os.environ)
    if name == "install" and len(rest) == 1:
        from hooks import install

        return install.main(rest[0])
    sys.stderr.write("usage: python -m hooks pre-receive|proc-receive|post-receive, or install STORE\n")
    return 2


if __name__ == "__main__":
    gc.disable()  # a short life with little to collect; a pusher waits for it twice
    code = main(sys.argv[1:])
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # everything is closed; taking the interpreter apart would cost the pusher 10 ms more
