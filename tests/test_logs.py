import asyncio
import io
import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from orchestrator.control.config import Deployment
from orchestrator.control.logs import setup_logging, transaction
from orchestrator.control.printable import printable, printable_lines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    yield Deployment(tmp_path)
    logger.remove()
    logging.basicConfig(handlers=[], force=True)


def lines(deployment: Deployment) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (deployment.logs / "host.jsonl").read_text().splitlines()]


def test_a_line_goes_to_the_terminal_for_people_and_to_the_file_as_json(deployment: Deployment) -> None:
    out = io.StringIO()
    setup_logging(deployment, "INFO", out)
    logger.bind(module="counter", tag="counter/v1.0.0").info("in service")
    assert out.getvalue().endswith("INFO    [counter] in service\n")
    (line,) = lines(deployment)
    assert (line["level"], line["module"], line["message"]) == ("INFO", "counter", "in service")
    assert line["extra"] == {"tag": "counter/v1.0.0"}
    assert line["where"].startswith("tests.test_logs:") or line["where"].startswith("test_logs:")


def test_the_file_takes_debug_lines_that_the_terminal_is_spared(deployment: Deployment) -> None:
    out = io.StringIO()
    setup_logging(deployment, "WARNING", out)
    logger.debug("detail")
    assert out.getvalue() == ""
    assert [line["message"] for line in lines(deployment)] == ["detail"]


def test_colour_only_on_a_terminal_and_never_with_no_color(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for out, coloured in ((Terminal(), True), (io.StringIO(), False)):
        setup_logging(deployment, "INFO", out)
        logger.info("hello")
        assert ("\x1b[" in out.getvalue()) is coloured
    monkeypatch.setenv("NO_COLOR", "1")
    quiet = Terminal()
    setup_logging(deployment, "INFO", quiet)
    logger.info("hello")
    assert "\x1b" not in quiet.getvalue()


def test_a_hostile_message_forges_no_line_and_moves_no_cursor(deployment: Deployment) -> None:
    out = io.StringIO()
    setup_logging(deployment, "INFO", out)
    hostile = "ok\n12:00:00 ERROR forged \x1b[2J\x9b31m <red>{extra} \u202e \ud800"
    logger.bind(module="evil\x1b]0;x\x07").info("{}", hostile)
    text = out.getvalue()
    assert text.count("\n") == 1
    assert not [c for c in text if c in "\x1b\x9b\x07\u202e\ud800"]
    assert r"ok\n12:00:00 ERROR forged \x1b[2J\x9b31m <red>{extra} \u202e \ud800" in text
    raw = (deployment.logs / "host.jsonl").read_bytes()
    assert raw.count(b"\n") == 1
    assert not [byte for byte in raw[:-1] if byte < 0x20 or byte > 0x7E]
    assert lines(deployment)[0]["message"] == hostile


def test_lines_of_one_transaction_carry_its_number_and_those_of_others_do_not(deployment: Deployment) -> None:
    setup_logging(deployment, "INFO", io.StringIO())

    async def upgrade(txn: int) -> None:
        with transaction(txn):
            logger.info("one")
            await asyncio.sleep(0)
            logging.getLogger("git").warning("two")

    async def story() -> None:
        await asyncio.gather(upgrade(7), upgrade(8))
        logger.info("outside")

    asyncio.run(story())
    found = [(line["txn"], line["message"]) for line in lines(deployment)]
    assert sorted(found[:-1]) == [(7, "one"), (7, "two"), (8, "one"), (8, "two")]
    assert found[-1] == (None, "outside")


def test_what_libraries_say_through_logging_arrives_with_its_logger_and_its_place(
    deployment: Deployment,
) -> None:
    out = io.StringIO()
    setup_logging(deployment, "INFO", out)
    logging.getLogger("watchdog.observers").warning("odd %s {brace}", "event")
    assert "WARNING odd event {brace}" in out.getvalue()
    (line,) = lines(deployment)
    assert line["extra"] == {"logger": "watchdog.observers"}
    assert "test_logs:" in line["where"]


def test_an_exception_is_written_whole_and_shows_no_local_values(deployment: Deployment) -> None:
    out = io.StringIO()
    setup_logging(deployment, "INFO", out)
    secrets = {"password": "hunter" + "2"}
    try:
        secrets["gone\x1b[2J"]
    except KeyError:
        logger.exception("a unit failed")
    assert "KeyError" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert "hunter2" not in out.getvalue()
    assert "KeyError" in lines(deployment)[0]["error"]


def test_the_log_file_is_the_owner_s_alone(deployment: Deployment) -> None:
    setup_logging(deployment, "INFO", io.StringIO())
    logger.info("hello")
    assert stat.S_IMODE((deployment.logs / "host.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE(deployment.logs.stat().st_mode) == 0o700


def test_setting_up_again_writes_each_line_once(deployment: Deployment) -> None:
    out = io.StringIO()
    setup_logging(deployment, "INFO", out)
    setup_logging(deployment, "INFO", out)
    logger.info("once")
    assert out.getvalue().count("once") == 1
    assert len(lines(deployment)) == 1


def test_printable_leaves_ordinary_text_of_any_language_alone() -> None:
    assert printable("Zähler 計数器 🙂 [bold]") == "Zähler 計数器 🙂 [bold]"
    assert printable("a\tb\r\n\x00\x7f\x85") == r"a\tb\r\n\x00\x7f\x85"
    assert printable_lines("a\r\nb\x1b\n") == "a\nb\\x1b\n"
