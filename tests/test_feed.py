"""The sample's own feed: the same bytes each time, valid MRT, and the timeline that it claims."""

import hashlib
import subprocess
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

from sample_app import feed
from sample_app.modules.decoder.mrt import Decoded, decode
from sample_app.modules.source.framing import next_record, open_feed


def decoded_feed(path: Path) -> list[Decoded]:
    found = []
    with open_feed(str(path)) as file:
        while record := next_record(file):
            found.append(decode(record))
    return found


def clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%H:%M")


def test_the_feed_is_the_same_in_every_python() -> None:
    data, _ = feed.build()
    assert (
        hashlib.sha256(data).hexdigest() == "31d9fafee445d6022302bd5348aab0e08ae1bad1edf2942930c6456cb34627f4"
    )


def test_the_decoder_finds_what_the_feed_says_is_in_it(tmp_path: Path) -> None:
    data, counts = feed.build()
    (tmp_path / "feed.mrt").write_bytes(data)
    decoded = decoded_feed(tmp_path / "feed.mrt")
    updates = [one for one in decoded if one["kind"] == "update"]
    kinds = Counter(one["kind"] for one in decoded)
    found = feed.Counts(
        announced=sum(len(one["announced"]) for one in updates),
        withdrawn=sum(len(one["withdrawn"]) for one in updates),
        states=kinds["state"],
        others=kinds["other"],
        corrupt=kinds["corrupt"],
        unsupported=kinds["unsupported"],
    )
    assert found == counts
    assert min(counts.announced, counts.withdrawn, counts.states, counts.corrupt, counts.unsupported) > 0
    assert not any(one["why"] for one in updates)


def test_time_never_goes_back_in_the_feed(tmp_path: Path) -> None:
    (tmp_path / "feed.mrt").write_bytes(feed.build()[0])
    seconds = [int(one["time"]) for one in decoded_feed(tmp_path / "feed.mrt")]
    assert seconds == sorted(seconds)


def test_the_event_follows_the_public_timeline(tmp_path: Path) -> None:
    (tmp_path / "feed.mrt").write_bytes(feed.build()[0])
    seen: list[tuple[str, str, int | None]] = []
    for one in decoded_feed(tmp_path / "feed.mrt"):
        if one["kind"] != "update":
            continue
        routes = [(prefix, one["origin"]) for prefix in one["announced"]]
        routes += [(prefix, None) for prefix in one["withdrawn"]]
        seen += [(clock(one["time"]), *route) for route in routes if route[0].startswith("208.65.")]
    assert list(dict.fromkeys(seen)) == [
        ("18:01", "208.65.152.0/22", 36_561),
        ("18:47", "208.65.153.0/24", 17_557),
        ("20:07", "208.65.153.0/24", 36_561),
        ("20:18", "208.65.153.0/25", 36_561),
        ("20:18", "208.65.153.128/25", 36_561),
        ("20:51", "208.65.153.0/24", 17_557),
        ("21:01", "208.65.153.0/24", None),
    ]


def test_old_speakers_paths_keep_their_long_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "feed.mrt").write_bytes(feed.build()[0])
    old = [one for one in decoded_feed(tmp_path / "feed.mrt") if one.get("peer") == "192.0.2.13"]
    assert any((one.get("origin") or 0) > 65_535 for one in old)
    assert not any("23456" in one.get("path", "") for one in old)


def test_the_feed_is_written_to_the_file_named_on_the_command_line(tmp_path: Path) -> None:
    target = tmp_path / "feed.mrt"
    root = Path(feed.__file__).parents[1]
    command = [sys.executable, "-m", "sample_app.feed"]
    done = subprocess.run(
        [*command, str(target)], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert "announced=" in done.stdout
    assert target.read_bytes() == feed.build()[0]
    wrong = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "usage: python -m sample_app.feed FILE\n")
