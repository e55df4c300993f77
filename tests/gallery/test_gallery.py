"""A gallery of bad releases: each is pushed to a host under load, is refused in words, and costs nothing.

A folder is a release, see `kit`. What each push prints is kept in tests/messages.txt, to be read as prose (see `prose`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gallery.hall import Hall, hall
from tests.gallery.kit import HERE, Case, cases
from tests.gallery.makers import MAKERS
from tests.stories import prose

CASES = cases()
ORDER = [case.heading for case in CASES]
HEAD = """\
What livetag says of a bad release, case by case. Written by tests/gallery/test_gallery.py, which also compares it:
UPDATE_MESSAGES=1 writes it anew. In angle brackets: what differs from run to run.
"""
COUNTED = re.compile(
    r"(?<=whole state \()\d+ B|(?<=self\.state is )\d+|(?<= has )\d+(?= bytes)|(?<= had )\d+(?= \w+ at once)"
)
# Where it is when its time is over is told only if it says so in time.
WHERE = re.compile(r"(did not end within (?:the host's )?\S+ = [\d.]+ s)(?:, it still waits)?(?: \([^)]*\))?")
# Once it is under load all is measured, but for versions, limits and lines of code.
MEASURED = re.compile(
    r"(?<![\w.=/])(?<!= )(?<!line )\d+(?:\.\d+)?(?: messages?\b)?(?![\w.]*\.\d)(?! s\b)|(?<=')(?:clock|north)(?=')"
)
UNDER_LOAD = {"shadow", "service"}
Halls = Callable[[Case], Hall]


@pytest.fixture(scope="module")
def halls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Halls]:
    """The host that a case needs: one for each livetag.toml, in each process that runs some of the tests."""
    made: dict[str, Hall] = {}
    with ExitStack() as stack:

        def find(case: Case) -> Hall:
            if case.livetag not in made or made[case.livetag].spoilt:
                place = tmp_path_factory.mktemp("hall")
                made[case.livetag] = stack.enter_context(hall(place, case.livetag))
            return made[case.livetag]

        yield find


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, str]]:
    texts: dict[str, str] = {}
    yield texts
    if prose.updating():
        prose.write(texts, ORDER, prose.FILE, HEAD)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_release_is_refused_in_words_and_costs_nothing(
    halls: Halls, found: dict[str, str], case: Case
) -> None:
    host = halls(case)
    host.spoilt = True
    commit_id, pushed = host.push(case)
    host.judge(case, commit_id, pushed)
    host.tidy(case)
    host.check()
    host.spoilt = False
    paths = {
        str(host.deployment.path): "<deployment>",
        sys.prefix: "<venv>",
        str(Path(sys.executable).resolve()): "<python>",
    }
    text = prose.transcript(f"git push live {' '.join(case.tags)}", pushed, paths)
    text = (MEASURED if case.at in UNDER_LOAD else COUNTED).sub("<n>", WHERE.sub(r"\1", text))
    found[case.heading] = text
    if not prose.updating():
        expected = prose.written().get(case.heading, "")
        assert text == expected, f"if the new text is right: {prose.UPDATE}=1 pytest {__file__}"


@pytest.mark.skipif(prose.updating(), reason="the file is written when all have run")
def test_every_text_of_the_file_belongs_to_a_folder() -> None:
    assert list(prose.written()) == ORDER


def test_no_folder_is_left_out_and_no_two_have_one_heading() -> None:
    folders = {path.name for path in HERE.iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders == {case.name for case in CASES}
    assert len(set(ORDER)) == len(ORDER) >= 30
    assert {case.make for case in CASES if case.make} == set(MAKERS)
