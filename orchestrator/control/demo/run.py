"""One demo from start to end; whatever happens, nothing of it stays."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.control.cli.screen import complain, console, note
from orchestrator.control.client import ControlError
from orchestrator.control.clone import CloneFailed
from orchestrator.control.demo import show
from orchestrator.control.demo.checks import SECONDS_MAX, check
from orchestrator.control.demo.facts import Facts
from orchestrator.control.demo.playground import DemoFailed, Playground
from orchestrator.control.demo.reference import read_straight
from orchestrator.control.demo.story import Story
from orchestrator.control.init import InitRefused
from orchestrator.control.interrupts import interrupted_by_signals
from repo_store.errors import StoreError
from sample_app import feed as own_feed

OWN_FEED_RECORDS = 30_000


def run_demo(feed: Path | None, json_output: bool) -> int:
    """Play the demo on `feed`, or on the sample's own; returns 0 if every check held, else 1.

    Side effects: a temporary deployment, a host and pushes, all gone afterwards, also after Ctrl-C or SIGTERM.
    """
    try:
        with interrupted_by_signals():
            facts = _play(feed)
    except (DemoFailed, ControlError, CloneFailed, InitRefused, StoreError, OSError) as error:
        complain(f"The demo stopped: {error}. Everything that it had started was ended and removed.")
        return 1
    checked = check(facts)
    (show.show_json if json_output else show.show)(facts, checked)
    return 0 if all(one.ok for one in checked) else 1


def _play(feed: Path | None) -> Facts:
    began = time.monotonic()
    with Playground(began + SECONDS_MAX) as ground, console(stderr=True).status("the demo runs"):
        if feed is None:
            feed = ground.file("feed.mrt")
            note("the feed: made-up routes around a reconstruction of 24 February 2008, 208.65.152.0/22")
            feed.write_bytes(own_feed.build(OWN_FEED_RECORDS)[0])
        expected = read_straight(feed)
        if not expected.records:
            raise DemoFailed(f"{feed} holds no record")
        return Story(ground, feed.resolve(), expected, note).play()
