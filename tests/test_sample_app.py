"""The sample's modules together: what a feed gives, and that no upgrade in the middle changes it."""

from __future__ import annotations

import ast
import asyncio
import gzip
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import livetag
from orchestrator.runtime.application import Application
from orchestrator.runtime.at_once import at_once
from orchestrator.runtime.loader import Loaded, load_blueprint
from orchestrator.runtime.state import PLAIN_STATE
from orchestrator.runtime.table_image import TableImage, saving
from orchestrator.upgrade.incoming import Incoming, KeptState, StateCopy
from orchestrator.upgrade.participant import Participant
from orchestrator.upgrade.records import Change, Entry, Fact, Planned, Record
from orchestrator.upgrade.source import StagedSource
from orchestrator.upgrade.transaction import Outcome, UpgradeTransaction
from orchestrator.upgrade.trial import TrialReport
from repo_store.manifest import Shadow, TrialSection, parse_app, parse_module
from sample_app import feed
from sample_app.modules.decoder.mrt import decode
from sample_app.modules.rib import Rib
from sample_app.modules.source.framing import next_record, open_feed

SAMPLE = Path(feed.__file__).parent
MODULES = SAMPLE / "modules"
UPGRADES = SAMPLE / "upgrades"
CHAIN = ("alerts", "detector", "rib", "decoder", "source")  # who is sent to comes first
MRT = SAMPLE.parents[1] / "shared" / "data" / "bgp" / "mrt"
FEED_2016 = MRT / "ris_updates_20160811_1600.gz"
RECORDS = 6_811  # in the own feed
real_data = pytest.mark.skipif(not MRT.is_dir(), reason=f"the real feeds are not there: {MRT}")


UNSHADOWED = Shadow()


class MemoryLog:
    """The journal's part in a transaction, without a disk."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def write(self, fact: Fact, /) -> Record:
        return self.append(fact).record

    def append(self, fact: Fact, _image: object = (), _writes: object = (), /) -> Written:
        self.records.append(Record(len(self.records) + 1, 0.0, fact, b""))
        return Written(self.records[-1])

    def wake(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Written:
    record: Record

    async def wait(self) -> Record:
        return self.record


class Untried(StagedSource):
    """A release that comes into service without its trial in a child process."""

    async def try_out(
        self,
        state: StateCopy | None,
        open_keys: Mapping[str, bytes],
        tables: Sequence[TableImage] = (),
    ) -> TrialReport:
        del state
        return TrialReport(b"", {})


@dataclass
class Monitor:
    """The sample application in a real runtime, its modules loaded from folders as a host would."""

    stage: Path
    config: dict[str, dict[str, Any]]
    app: Application = field(default_factory=Application)
    log: MemoryLog = field(default_factory=MemoryLog)
    entries: dict[str, Entry] = field(default_factory=dict)
    count: int = 0
    said: list[str] = field(default_factory=list)

    async def deploy(
        self,
        folders: Mapping[str, Path],
        *,
        kept: Mapping[str, KeptState] | None = None,
        tried: bool = False,
        shadow: Shadow = UNSHADOWED,
    ) -> Outcome:
        """Bring these versions into service as one transaction."""
        self.count += 1
        participants, changes = [], []
        for name, folder in folders.items():
            entry, incoming = self._incoming(name, folder, tried=tried)
            incoming = replace(incoming, shadow=shadow)
            changes.append(Change(name, self.entries.get(name), entry))
            participants.append(Participant(self.app, changes[-1], incoming, (kept or {}).get(name)))
        planned = Planned(self.count, tuple(changes), "test", "test")
        transaction = UpgradeTransaction(
            self.app, planned, participants, self.log, report=lambda _phase, text: self.said.append(text)
        )
        outcome = await transaction.run()
        await transaction.retire(outcome)
        if outcome.result == "committed":
            self.entries.update({change.name: change.after for change in changes if change.after is not None})
        return outcome

    def _incoming(self, name: str, folder: Path, *, tried: bool) -> tuple[Entry, Incoming]:
        staged = self.stage / str(self.count)
        shutil.copytree(folder, staged / name, ignore=shutil.ignore_patterns("__pycache__"))
        manifest = parse_module((folder / "module.toml").read_bytes(), f"{name}/module.toml")
        loaded = Loaded(staged, [name], "look")
        state_version = load_blueprint(loaded, name, manifest.entry)[0].state_version
        loaded.unload()
        version = folder.name.partition("-")[2] or "1.0.0"
        config = self.config.get(name, {})
        entry = Entry(
            name, name, version, f"{name}/v{version}", "c", "t", "o", config, state_version=state_version
        )
        source = (StagedSource if tried else Untried)(staged, entry, manifest, config, TrialSection())
        return entry, Incoming(source, manifest.limits, config)

    async def until(self, records: int | None = None, of_feed: str | None = None) -> None:
        """Return once so many records were read, or all of them (of this feed) have gone through."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            read = self.state("source")
            if records is not None and read["records"] >= records:
                return
            modules = self.app.modules.values()
            if (
                read["ended"]
                and of_feed in (None, read["feed"])
                and not any(len(proxy.mailbox) or proxy.unit for proxy in modules)
            ):
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"the feed did not get there in 60 s: {read}")

    def state(self, name: str) -> Any:
        implementation = self.app.modules[name].implementation
        assert implementation is not None
        return implementation.state

    def records(self, name: str) -> dict[str, dict[Any, Any]]:
        """All records of a module's Tables."""
        return {each: dict(table.items()) for each, table in self.app.modules[name].tables.live.items()}

    def kept(self) -> dict[str, KeptState]:
        """What a clean stop keeps of each module."""
        return {
            name: KeptState(
                self.entries[name].state_version,
                PLAIN_STATE.encode(self.state(name)),
                tuple(proxy.mailbox.drain()),
                at_once(saving(proxy.tables)),
            )
            for name, proxy in self.app.modules.items()
        }

    async def stop_input(self) -> None:
        source = self.app.modules["source"]
        source.stop_input()
        await source.intakes.stop()

    async def close(self) -> None:
        for proxy in self.app.modules.values():
            await proxy.close("the test is over")
            assert proxy.implementation is not None
            await proxy.implementation.stop()
            if proxy.implementation.loaded is not None:
                proxy.implementation.loaded.unload()

    def lost(self) -> dict[str, int]:
        return {
            name: proxy.mailbox.accepted - proxy.handled
            for name, proxy in self.app.modules.items()
            if proxy.mailbox.accepted != proxy.handled
        }


@asynccontextmanager
async def monitor(tmp_path: Path, path: Path, rate: int = 0, stage: str = "stage") -> AsyncIterator[Monitor]:
    """The sample on this feed, not yet deployed; closed at the end whatever happens."""
    output = str(tmp_path / "alerts.jsonl")
    config: dict[str, dict[str, Any]] = {
        "source": {"feed": str(path), "rate": rate},
        "alerts": {"output": output},
    }
    running = Monitor(tmp_path / stage, config)
    try:
        yield running
    finally:
        await running.close()


def first_versions() -> dict[str, Path]:
    return {name: MODULES / name for name in CHAIN}


def alerts(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]


@pytest.fixture
def own_feed(tmp_path: Path) -> Path:
    path = tmp_path / "feed.mrt"
    path.write_bytes(feed.build()[0])
    return path


async def whole_run(tmp_path: Path, path: Path) -> Monitor:
    async with monitor(tmp_path, path) as running:
        assert (await running.deploy(first_versions())).result == "committed"
        await running.until()
    return running


# -- what a feed gives -----------------------------------------------------------------------------------------


def test_the_own_feed_raises_the_alerts_of_its_timeline(tmp_path: Path, own_feed: Path) -> None:
    async def story() -> None:
        running = await whole_run(tmp_path, own_feed)
        counts = feed.build()[1]
        assert running.state("decoder") == {name: getattr(counts, name) for name in running.state("decoder")}
        assert running.lost() == {}
        assert running.state("alerts") == {"written": len(alerts(tmp_path))}

    asyncio.run(story())
    event = [one for one in alerts(tmp_path) if one["prefix"].startswith("208.65.")]
    assert [(one["at"], one["kind"], one["prefix"], one["origin"], one["before"]) for one in event] == [
        ("2008-02-24T18:47:00+00:00", "more specific", "208.65.153.0/24", 17_557, [36_561]),
        ("2008-02-24T20:07:00+00:00", "origin change", "208.65.153.0/24", 36_561, [17_557]),
    ]
    assert event[0]["part_of"] == "208.65.152.0/22"


def test_pure_modules_are_no_different_from_themselves_on_real_messages(
    tmp_path: Path, own_feed: Path
) -> None:
    """Shadows of what serves: events, asks and Tables under load; each difference would be one of the comparison."""

    async def story() -> None:
        async with monitor(tmp_path, own_feed, rate=4000) as running:
            assert (await running.deploy(first_versions())).result == "committed"
            await running.until(records=300)
            pure = {name: MODULES / name for name in ("decoder", "rib", "detector")}
            outcome = await running.deploy(pure, shadow=Shadow(messages=100, seconds=30.0))
            assert outcome.result == "committed", outcome.reason
            upgraded = {"rib": UPGRADES / "rib-1.1.0"}  # another schema of state and records
            outcome = await running.deploy(upgraded, shadow=Shadow(messages=200, seconds=30.0))
            assert outcome.result == "committed", outcome.reason
            assert "rib: shadowed 200 messages, 0 differ" in running.said[-1]
            await running.until()
            assert running.lost() == {}

    asyncio.run(story())
    assert len(alerts(tmp_path)) == len({json.dumps(each, sort_keys=True) for each in alerts(tmp_path)})


@real_data
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ris_updates_20160811_1600.gz", 20),
        ("ris_updates_20070211_0141.gz", 6),
        ("ris_updates_20071015_1505.gz", 1),
        ("ris_rrc15_updates_20100227_1610.gz", 3),
        ("routeviews_jinx_updates_20150401_0000.bz2", 6),
    ],
)
def test_the_origin_changes_of_a_real_feed_are_found(tmp_path: Path, name: str, changes: int) -> None:
    began = time.perf_counter()
    running = asyncio.run(whole_run(tmp_path, MRT / name))
    took = time.perf_counter() - began
    records = running.state("source")["records"]
    sys.stdout.write(f"{name}: {records} records through five modules in {took:.2f} s\n")
    assert Counter(one["kind"] for one in alerts(tmp_path))["origin change"] == changes
    assert running.lost() == {}
    assert took < 20


@real_data
def test_two_damaged_record_boundaries_cost_two_records(tmp_path: Path) -> None:
    running = asyncio.run(whole_run(tmp_path, MRT / "legacy_rrc00_updates_20000325_0345.gz"))
    assert running.state("decoder")["corrupt"] == 2
    assert running.state("decoder")["unsupported"] == 2_580
    assert running.state("source")["records"] == 2_582


def test_reading_goes_on_behind_junk_and_a_cut_off_end_is_seen(tmp_path: Path) -> None:
    data = feed.build()[0]
    pieces = []
    (tmp_path / "whole").write_bytes(data)
    with open_feed(str(tmp_path / "whole")) as file:
        while record := next_record(file):
            pieces.append(record)
    wrong_length = pieces[5][:8] + (len(pieces[5]) + 30).to_bytes(4, "big") + pieces[5][12:]
    dirty = [*pieces[:3], b"\x00junk\xff" * 9, *pieces[3:5], wrong_length, *pieces[6:40], pieces[40][:-7]]
    (tmp_path / "dirty.gz").write_bytes(gzip.compress(b"".join(dirty)))
    found = []
    with open_feed(str(tmp_path / "dirty.gz")) as file:
        while record := next_record(file):
            found.append(record)
    assert b"".join(found) == b"".join(dirty)
    assert found == dirty
    assert [index for index, one in enumerate(found) if decode(one)["kind"] == "corrupt"] == [
        3,
        6,
        len(dirty) - 1,
    ]


# -- upgrades in the middle ------------------------------------------------------------------------------------

UPGRADE_STEPS: tuple[tuple[str, Path], ...] = (
    ("decoder", UPGRADES / "decoder-1.1.0"),
    ("detector", UPGRADES / "detector-1.1.0"),
    ("source", MODULES / "source"),
    ("rib", UPGRADES / "rib-1.1.0"),
    ("alerts", MODULES / "alerts"),
    ("detector", MODULES / "detector"),
    ("rib", MODULES / "rib"),
    ("decoder", MODULES / "decoder"),
)


async def run_with_upgrades(tmp_path: Path, path: Path, rate: int, total: int) -> Monitor:
    """Swap each module somewhere in the feed; the detector up and down again."""
    async with monitor(tmp_path, path, rate) as running:
        assert (await running.deploy(first_versions())).result == "committed"
        for number, (name, folder) in enumerate(UPGRADE_STEPS, 1):
            await running.until(number * total // (len(UPGRADE_STEPS) + 2))
            outcome = await running.deploy({name: folder})
            for _ in range(
                5
            ):  # a machine that is busy with other tests may take the pause's budget: tried again, as a host does
                if outcome.fault == "moment":
                    outcome = await running.deploy({name: folder})
            assert (outcome.result, outcome.reason) == ("committed", "")
            assert not running.state("source")["ended"]
        await running.until()
    return running


def compare(plain: Monitor, swapped: Monitor) -> None:
    for name in CHAIN:
        assert swapped.state(name) == plain.state(name), name
        assert swapped.records(name) == plain.records(name), name
    assert swapped.lost() == plain.lost() == {}


def test_an_upgrade_of_each_module_changes_no_route_and_no_alert(tmp_path: Path, own_feed: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = asyncio.run(whole_run(tmp_path / "a", own_feed))
    records = plain.state("source")["records"]
    compare(plain, asyncio.run(run_with_upgrades(tmp_path / "b", own_feed, 5_000, records)))
    assert alerts(tmp_path / "a") == alerts(tmp_path / "b")


@real_data
def test_an_upgrade_of_each_module_in_the_real_2016_feed_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = asyncio.run(whole_run(tmp_path / "a", FEED_2016))
    compare(plain, asyncio.run(run_with_upgrades(tmp_path / "b", FEED_2016, 8_000, 17_406)))
    assert alerts(tmp_path / "a") == alerts(tmp_path / "b")
    assert plain.state("decoder")["announced"] == 39_256


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("detector-1.2.0", "208.65.153.0/24 is not seen as a part of 208.65.152.0/22"),
        ("detector-1.2.1", "prepare() raised KeyError: 'quiet_s'"),
        ("detector-1.2.2", "unsupported operand"),
    ],
)
def test_a_detector_that_is_broken_on_purpose_is_refused_and_the_old_one_serves_on(
    tmp_path: Path, own_feed: Path, folder: str, reason: str
) -> None:
    async def story() -> None:
        async with monitor(tmp_path, own_feed, 2_500) as running:
            await running.deploy(first_versions())
            await running.until(500)
            await running.deploy({"detector": UPGRADES / "detector-1.1.0"})
            outcome = await running.deploy({"detector": UPGRADES / folder}, tried=True)
            assert (outcome.result, outcome.fault) == ("rolled_back", "release")
            assert reason in outcome.reason
            assert not running.state("source")["ended"]
            await running.until()
            assert running.lost() == {}
            assert running.entries["detector"].version == "1.1.0"

    asyncio.run(story())
    assert sum(one["prefix"] == "208.65.153.0/24" for one in alerts(tmp_path)) == 2


def test_a_migration_that_fails_in_the_switch_is_undone_and_nothing_is_forgotten(
    tmp_path: Path, own_feed: Path
) -> None:
    async def story() -> None:
        plain = await whole_run(tmp_path, own_feed)
        async with monitor(tmp_path, own_feed, 8_000, "stage-2") as running:
            await running.deploy(first_versions())
            await running.until(500)
            await running.deploy({"detector": UPGRADES / "detector-1.1.0"})
            outcome = await running.deploy({"detector": UPGRADES / "detector-1.2.2"})
            assert outcome.result == "rolled_back"
            assert "migration raised TypeError" in outcome.reason
            assert not running.state("source")["ended"]
            await running.until()
            origins = {prefix: [*known] for prefix, known in running.state("detector")["origins"].items()}
            assert origins == plain.state("detector")["origins"]
            assert running.lost() == {}

    asyncio.run(story())


# -- the source's place in the file ----------------------------------------------------------------------------


def test_a_source_that_was_undone_leaves_the_file_to_the_one_that_serves(
    tmp_path: Path, own_feed: Path
) -> None:
    broken = tmp_path / "source-1.0.1"
    shutil.copytree(MODULES / "source", broken)
    text = (broken / "__init__.py").read_text()
    broken_text = text.replace(
        '            self.file = resources["file"]\n',
        '            self.file = resources["file"]\n            raise OSError("broken")\n',
    )
    assert broken_text != text
    (broken / "__init__.py").write_text(broken_text)

    async def story() -> None:
        async with monitor(tmp_path, own_feed, 8_000) as running:
            await running.deploy(first_versions())
            await running.until(1_000)
            outcome = await running.deploy({"source": broken})
            assert "take_over() raised OSError: broken" in outcome.reason
            await running.until()
            assert running.state("source")["records"] == RECORDS
            assert running.lost() == {}

    asyncio.run(story())


def test_a_restart_reads_no_record_twice_and_loses_none(tmp_path: Path, own_feed: Path) -> None:
    async def story() -> None:
        async with monitor(tmp_path, own_feed, 20_000) as first:
            await first.deploy(first_versions())
            await first.until(2_000)
            await first.stop_input()
            kept = first.kept()
        async with monitor(tmp_path, own_feed, stage="stage-2") as second:
            await second.deploy(first_versions(), kept=kept)
            await second.until()
            counts = feed.build()[1]
            assert second.state("decoder") == {
                name: getattr(counts, name) for name in second.state("decoder")
            }
            assert second.state("source")["records"] == RECORDS

    asyncio.run(story())


def test_another_file_in_the_config_is_read_from_its_start(tmp_path: Path, own_feed: Path) -> None:
    other = tmp_path / "other.mrt.gz"
    other.write_bytes(gzip.compress(own_feed.read_bytes()))

    async def story() -> None:
        async with monitor(tmp_path, own_feed, 5_000) as running:
            await running.deploy(first_versions())
            await running.until(1_000)
            running.config["source"] = {"feed": str(other)}
            await running.deploy({"source": MODULES / "source"})
            await running.until(of_feed=str(other))
            assert running.state("source")["records"] == RECORDS
            assert running.state("decoder")["announced"] > feed.build()[1].announced
            assert running.lost() == {}

    asyncio.run(story())


# -- the versions ----------------------------------------------------------------------------------------------


def load(tmp_path: Path, folder: Path, package: str) -> Any:
    """A version's package, loaded as the host would."""
    shutil.copytree(folder, tmp_path / folder.name / package)
    return Loaded(tmp_path / folder.name, [package], "test").import_top


def test_the_faster_decoder_gives_the_same_results(tmp_path: Path, own_feed: Path) -> None:
    faster = load(tmp_path, UPGRADES / "decoder-1.1.0", "decoder")("decoder.mrt").decode
    records = []
    with open_feed(str(FEED_2016 if FEED_2016.exists() else own_feed)) as file:
        while record := next_record(file):
            records.append(record)
    chance = random.Random(11)  # noqa: S311 - the same damage in every run
    for sound in records[:3_000]:
        damaged = bytearray(sound)
        damaged[chance.randrange(12, len(damaged))] = chance.randrange(256)
        records.append(bytes(damaged))
    assert all(decode(record) == faster(record) for record in records)
    sound_records = records[:-3_000]
    seconds = {}
    for name, function in (("1.0.0", decode), ("1.1.0", faster)):
        times = []
        for _ in range(3):
            began = time.process_time()
            for record in sound_records:
                function(record)
            times.append(time.process_time() - began)
        seconds[name] = min(times)
    speed = {name: round(len(sound_records) / took) for name, took in seconds.items()}
    sys.stdout.write(f"records a second: {speed}\n")
    assert seconds["1.1.0"] < seconds["1.0.0"]


def test_the_detectors_way_down_keeps_all_that_the_older_state_can_say(tmp_path: Path) -> None:
    steps = load(tmp_path, UPGRADES / "detector-1.1.0", "detector")("detector")
    old = {"origins": {"208.65.153.0/24": [17_557, 36_561], "2001:db8::/32": [64_496]}}
    assert steps.down(steps.up(old)) == old


def test_every_version_uses_only_livetag_and_the_standard_library() -> None:
    folders = [*MODULES.iterdir(), *UPGRADES.iterdir()]
    files = [file for folder in folders for file in folder.glob("*.py")]
    assert len(files) > 15
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            tops = {name.partition(".")[0] for name in names}
            assert tops <= {*sys.stdlib_module_names, "livetag", "msgspec"}, f"{file}: {tops}"


def test_the_composition_and_every_manifest_are_valid() -> None:
    app = parse_app((SAMPLE / "app.toml").read_bytes(), "app.toml")
    assert set(app.modules) == set(CHAIN) == {folder.name for folder in MODULES.iterdir()}
    for folder in [*MODULES.iterdir(), *UPGRADES.iterdir()]:
        manifest = parse_module((folder / "module.toml").read_bytes(), str(folder))
        assert manifest.description
        assert set(manifest.requires.modules) == set(manifest.emits) - {"topics"}


def test_the_detectors_upgrade_and_rollback_in_the_test_kit(tmp_path: Path) -> None:
    first = vars(load(tmp_path, MODULES / "detector", "detector")("detector"))["Detector"]
    second = vars(load(tmp_path, UPGRADES / "detector-1.1.0", "detector")("detector"))["Detector"]
    body = {
        "time": 1.0,
        "peer": "192.0.2.1",
        "path": "64500 64501",
        "origin": 64_501,
        "prefixes": ["203.0.113.0/24"],
    }

    async def story() -> None:
        async with livetag.testing.run(first) as detector:
            await detector.send("announced", body)
            await detector.upgrade(second)
            await detector.send("announced", {**body, "origin": 64_502, "time": 2.0})
            assert [(sent.name, sent.type) for sent in detector.sent] == [("alerts", "alert")]
            assert detector.state["origins"]["203.0.113.0/24"][64_502] == {
                "first": 2.0,
                "last": 2.0,
                "times": 1,
            }
            await detector.rollback()
            assert detector.state == {"origins": {"203.0.113.0/24": [64_501, 64_502]}}
            assert await detector.ask("origins", {"prefix": "203.0.113.0/24"}) == [64_501, 64_502]

    asyncio.run(story())


def test_an_archive_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress(feed.build()[0])
    (tmp_path / "cut.mrt.gz").write_bytes(whole[: len(whole) // 2])
    running = asyncio.run(whole_run(tmp_path, tmp_path / "cut.mrt.gz"))
    assert 2_000 < running.state("source")["records"] < RECORDS
    assert running.state("decoder")["corrupt"] <= 2  # the damaged one of the feed, and the one that was cut
    assert running.app.modules["source"].intakes.failures == 0


def test_the_rib_forgets_what_is_withdrawn_and_all_of_a_peer_whose_session_goes_down() -> None:
    def update(peer: str, announced: list[str], withdrawn: list[str], origin: int = 64_501) -> dict[str, Any]:
        said = {"time": 1.0, "peer": peer, "path": f"64500 {origin}", "origin": origin}
        return {**said, "announced": announced, "withdrawn": withdrawn}

    async def story() -> None:
        async with livetag.testing.run(Rib) as rib:
            await rib.send("update", update("192.0.2.1", ["203.0.113.0/24", "198.18.0.0/15"], []))
            await rib.send("update", update("192.0.2.2", ["203.0.113.0/24#7", "203.0.113.0/24#8"], []))
            assert await rib.ask("size") == {"prefixes": 2, "routes": 4}
            await rib.send("update", update("192.0.2.2", [], ["203.0.113.0/24#7", "192.0.2.0/24"]))
            assert [*await rib.ask("routes", {"prefix": "203.0.113.0/24"})] == ["192.0.2.1", "192.0.2.2#8"]
            await rib.send("session", {"time": 2.0, "peer": "192.0.2.2", "before": 6, "after": 1})
            await rib.send("session", {"time": 2.0, "peer": "192.0.2.1", "before": 3, "after": 1})
            assert [*await rib.ask("routes", {"prefix": "203.0.113.0/24"})] == ["192.0.2.1"]
            await rib.send("update", update("192.0.2.1", [], ["203.0.113.0/24", "198.18.0.0/15"]))
            assert (rib.state, rib.tables) == ({"peers": {}}, {"routes": {}})
            assert rib.dead_letters == []

    asyncio.run(story())


def test_the_rib_passes_on_only_a_peers_new_origins() -> None:
    body = {"time": 1.0, "peer": "192.0.2.1", "announced": ["203.0.113.0/24"], "withdrawn": []}

    async def story() -> None:
        async with livetag.testing.run(Rib) as rib:
            for path, origin in (("1 2", 2), ("1 9 2", 2), ("1 3", 3), ("1 {4,5}", None)):
                await rib.send("update", {**body, "path": path, "origin": origin})
            passed = {"time": 1.0, "peer": "192.0.2.1", "prefixes": ["203.0.113.0/24"]}
            assert rib.sent == [
                ("detector", "announced", {**passed, "path": "1 2", "origin": 2}),
                ("detector", "announced", {**passed, "path": "1 3", "origin": 3}),
            ]

    asyncio.run(story())
