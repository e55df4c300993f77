from __future__ import annotations

import msgspec
import pytest

from repo_store.errors import ManifestInvalid, ReleaseInvalid
from repo_store.manifest import (
    AppManifest,
    HostConfig,
    ModuleManifest,
    ModuleSpec,
    parse_app,
    parse_host,
    parse_module,
)

WHOLE = b"""
entry = "counter:Counter"
description = "counts ticks"
durable = true
one_way = true
drops = ["reset"]
shared = ["lib/wire"]
[requires]
python = ">=3.10"
distributions = ["msgspec>=0.19"]
modules = { clock = ">=1.2,<2" }
[emits]
clock = ["subscribe"]
topics = ["counter.total"]
[limits]
load_s = 3
pause_ms = 0.5
[probation]
seconds = 0
max_error_rate = 1
"""
SHADOW = b"""
pure = true
[shadow]
messages = 500
max_mismatch = 3
"""


def test_an_empty_file_means_the_defaults() -> None:
    assert parse_module(b"", "module.toml") == ModuleManifest()
    assert parse_app(b"", "app.toml") == AppManifest()
    assert parse_host(b"", "livetag.toml") == HostConfig()


def test_a_whole_module_toml_is_read_into_a_frozen_value() -> None:
    manifest = parse_module(WHOLE, "module.toml")
    assert manifest.entry == "counter:Counter"
    assert manifest.requires.modules == {"clock": ">=1.2,<2"}
    assert manifest.emits == {"clock": ("subscribe",), "topics": ("counter.total",)}
    assert (manifest.limits.load_s, manifest.limits.pause_ms, manifest.limits.drain_s) == (3.0, 0.5, 5.0)
    assert manifest.shared == ("lib/wire",)
    with pytest.raises(AttributeError):
        manifest.durable = False  # type: ignore[misc]


def test_a_shadow_is_for_a_module_that_says_it_is_pure() -> None:
    shadow = parse_module(SHADOW, "module.toml").shadow
    assert (shadow.messages, shadow.max_mismatch, shadow.seconds) == (500, 3, 60.0)
    with pytest.raises(ManifestInvalid, match=r"\[shadow\] needs pure = true.*without I/O of its own"):
        parse_module(SHADOW.replace(b"pure = true", b""), "module.toml")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("entyr = 'a:B'", ["unknown key entyr", "'a:B'", "allowed here: entry, description"]),
        ("[limits]\npause = 5", ["unknown key limits.pause", "= 5", "load_s, drain_s, pause_ms"]),
        ("[limits]\npause_ms = 'x'", ["limits.pause_ms", "'x'", "a number above 0 and at most 60000"]),
        ("[limits]\npause_ms = 0", ["limits.pause_ms = 0", "above 0"]),
        ("[limits]\npause_ms = nan", ["limits.pause_ms = nan", "above 0"]),
        ("[limits]\nload_s = inf", ["limits.load_s = inf", "at most 86400"]),
        ("[shadow]\nmessages = -1", ["shadow.messages = -1", "at least 0 and at most 100000"]),
        ("[shadow]\nmessages = 1e3", ["shadow.messages = 1000.0", "a whole number"]),
        ("[shadow]\nseconds = 0", ["shadow.seconds = 0", "above 0"]),
        ("[limits]\nload_s = true", ["limits.load_s = True", "a number"]),
        ("[limits]\nmailbox_messages = 1.5", ["limits.mailbox_messages", "a whole number at least 1"]),
        ("limits = 3", ["limits = 3", "a table"]),
        ("durable = 'yes'", ["durable = 'yes'", "true or false"]),
        ("drops = ['a', 3]", ["drops[1] = 3", "text"]),
        ("drops = 'a'", ["drops = 'a'", "a list"]),
        ("entry = 'Counter'", ["entry = 'Counter'", "module:Class"]),
        ("shared = ['../lib']", ["shared[0] = '../lib'", "relative"]),
        ("shared = ['/lib']", ["shared[0]", "relative"]),
        ("shared = ['lib//wire']", ["shared[0]", "relative"]),
        ("shared = ['modules/rib']", ["shared[0]", "another module's package"]),
        ("shared = ['lib/json']", ["shared[0]", "standard library"]),
        ("shared = ['a/wire', 'b/wire']", ["shared = ", "last parts differ"]),
        ("[requires]\npython = '3.10 or so'", ["requires.python", "'3.10 or so'", ">=3.10"]),
        ("[requires]\ndistributions = ['??']", ["requires.distributions[0]", "PEP 508"]),
        ("[requires.modules]\nclock = '~'", ["requires.modules.clock = '~'", "PEP 440"]),
        ("[requires.modules]\nClock = '>1'", ["requires.modules = 'Clock'", "name of a module"]),
        ("[emits]\nclock = 'x'", ["emits.clock = 'x'", "a list"]),
        ('"\\u001b[31m" = 1', ["unknown key '\\x1b[31m'"]),
        ("a = ", ["not valid TOML", "end of document"]),
        ("a = 1\na = 2\n", ["not valid TOML", "overwrite", "line 2"]),
        ("a = " + "[" * 50_000, ["not valid TOML"]),
        ("a." * 50_000 + "a = 1", ["nested too deeply"]),
    ],
)
def test_every_mistake_in_a_module_toml_names_file_key_value_and_what_is_allowed(
    text: str, parts: list[str]
) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        parse_module(text.encode(), "modules/counter/module.toml")
    message = str(caught.value)
    assert message.startswith("modules/counter/module.toml: ")
    for part in parts:
        assert part in message
    assert len(message) < 400


def test_a_broken_manifest_is_the_fault_of_the_release() -> None:
    with pytest.raises(ReleaseInvalid, match=r"not UTF-8 text \(byte 4\)"):
        parse_module(b"a = \xff", "module.toml")
    with pytest.raises(ReleaseInvalid, match="at most 262144"):
        parse_module(b"#" * 300_000, "module.toml")


def test_an_app_toml_names_its_modules_and_keeps_their_config_as_it_is() -> None:
    app = parse_app(
        b"""
[app]
name = "bgp-monitor"
[modules.rib]
also = ["routes"]
config = { port = 179, token = { env = "WS_TOKEN" }, peers = ["a"] }
[modules.backup]
package = "rib"
enabled = false
""",
        "app.toml",
    )
    assert app.app.name == "bgp-monitor"
    config = {"port": 179, "token": {"env": "WS_TOKEN"}, "peers": ["a"]}
    assert app.modules["rib"] == ModuleSpec(also=("routes",), config=config)
    assert app.modules["backup"] == ModuleSpec(package="rib", enabled=False)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[module.rib]", ["unknown key module", "allowed here: app, modules"]),
        ("[modules.Rib]", ["modules = 'Rib'", "a module name"]),
        ("[modules.rib]\npackage = 'json'", ["modules.rib.package = 'json'", "standard library"]),
        ("[modules.rib]\nenabled = 1", ["modules.rib.enabled = 1", "true or false"]),
        ("[modules.rib]\nconfig = { a = nan }", ["modules.rib.config.a = nan", "finite"]),
        ("[modules.rib]\nconfig = { a = [99999999999999999999] }", ["modules.rib.config.a[0]", "64 bits"]),
        ("[modules.rib]\nconfig = { a = 2020-01-01 }", ["modules.rib.config.a", "write dates as text"]),
        ("[modules.a]\nalso = ['b']\n[modules.b]", ["modules.a.also = 'b'", "a name that b does not have"]),
        ("[modules.a]\nalso = ['x', 'x']", ["modules.a.also = 'x'", "a name that a does not have"]),
    ],
)
def test_every_mistake_in_an_app_toml_is_named(text: str, parts: list[str]) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        parse_app(text.encode(), "app.toml")
    for part in parts:
        assert part in str(caught.value)


def test_a_livetag_toml_sets_the_host_and_refuses_what_it_does_not_know() -> None:
    config = parse_host(
        b"[host]\nprereleases = true\n[policy]\nmode = 'default'\n[trial]\nmemory_mb = 256\n", "livetag.toml"
    )
    assert (config.host.prereleases, config.policy.mode, config.trial.memory_mb) == (True, "default", 256)
    with pytest.raises(ManifestInvalid, match=r'policy\.mode = \'lax\' is not allowed; allowed: "default"'):
        parse_host(b"[policy]\nmode = 'lax'", "livetag.toml")
    with pytest.raises(ManifestInvalid, match="host = 3 is not allowed; allowed: a table"):
        parse_host(b"host = 3", "livetag.toml")


def test_a_manifest_survives_encoding_so_that_it_can_go_to_a_child_process() -> None:
    manifest = parse_module(WHOLE, "module.toml")
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=ModuleManifest) == manifest
