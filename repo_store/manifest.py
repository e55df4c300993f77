"""`module.toml`, `app.toml`, `livetag.toml` as frozen values. Pure: bytes in, a value or ManifestInvalid out.

Source: DESIGN §4. Every error names the file, the key, the value and what is allowed there.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import tomli
from msgspec import Meta

from repo_store.errors import ManifestInvalid
from repo_store.identity import ALLOWED, Identity, is_principal
from repo_store.release import is_package_name, package_name_problem

MANIFEST_BYTES_MAX = 256 * 1024
TABLE_DEPTH_MAX = 32
_DAY_S = 86_400.0

Seconds = Annotated[float, Meta(gt=0, le=_DAY_S)]
Ratio = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=10**12)]
Text = Annotated[str, Meta(min_length=1, max_length=1000)]

_ENTRY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Requires(msgspec.Struct, frozen=True):
    """What must hold on the host and in the resulting release table. Checked by the plan, not here."""

    python: str | None = None
    distributions: tuple[Text, ...] = ()
    modules: dict[str, str] = {}


class Limits(msgspec.Struct, frozen=True):
    """Deadlines and bounds of one module; over one of them the upgrade is undone, never the service."""

    load_s: Seconds = 10.0
    drain_s: Seconds = 5.0
    pause_ms: Annotated[float, Meta(gt=0, le=60_000)] = 50.0
    mailbox_messages: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000


class Probation(msgspec.Struct, frozen=True):
    """How a new release is watched before it is confirmed."""

    seconds: Annotated[float, Meta(ge=0, le=30 * _DAY_S)] = 30.0
    min_messages: Count = 100
    max_error_rate: Ratio = 0.01
    max_p99_ms: Annotated[float, Meta(gt=0, le=_DAY_S * 1000)] = 100.0


class Shadow(msgspec.Struct, frozen=True):
    """How many live messages a new release handles beside the one in service, unheard, before it may take its place.

    `messages` 0: none. At most `max_mismatch` of them may be handled otherwise. Too few in `seconds`: it is no pass.
    """

    messages: Annotated[int, Meta(ge=0, le=100_000)] = 0
    max_mismatch: Count = 0
    seconds: Seconds = 60.0


class ModuleManifest(msgspec.Struct, frozen=True):
    """`modules/<package>/module.toml`; without the file every value is its default."""

    entry: str | None = None
    description: str = ""
    durable: bool = False
    one_way: bool = False
    pure: bool = False
    drops: tuple[Text, ...] = ()
    shared: tuple[Text, ...] = ()
    requires: Requires = Requires()
    emits: dict[str, tuple[Text, ...]] = {}
    limits: Limits = Limits()
    probation: Probation = Probation()
    shadow: Shadow = Shadow()


class AppSection(msgspec.Struct, frozen=True):
    name: Text = "app"


class ModuleSpec(msgspec.Struct, frozen=True):
    """One module of the composition; `package` None means: the module's own name."""

    package: str | None = None
    enabled: bool = True
    also: tuple[Text, ...] = ()
    config: dict[str, Any] = {}  # Any: it is the author's own; _plain() checks that it is plain data


class AppManifest(msgspec.Struct, frozen=True):
    """`app.toml`: which modules make up the application."""

    app: AppSection = AppSection()
    modules: dict[str, ModuleSpec] = {}


class HostSection(msgspec.Struct, frozen=True):
    """How the host behaves; `probation` false: no release has one here, whatever its module.toml asks for."""

    prereleases: bool = False
    shadow: bool = True
    stall_s: Seconds = 5.0
    drain_s: Seconds = 10.0
    settle_s: Seconds = 10.0
    probation: bool = True


class PolicySection(msgspec.Struct, frozen=True):
    """Who may deploy. `allow` None: whoever can write the repository.

    `modules` has lists of its own for some packages (`app` is the composition). `relays` are the OS users whose `livetag
    shell` or web server says for whom it pushes, beside the deployment's owner.
    """

    mode: Literal["default", "strict"] = "default"
    allow: tuple[Text, ...] | None = None
    modules: dict[str, tuple[Text, ...]] = {}
    relays: tuple[Text, ...] = ()


class ControlSection(msgspec.Struct, frozen=True):
    group: Text | None = None


class TrialSection(msgspec.Struct, frozen=True):
    """Limits of the child process that describes and tries a release."""

    # Address space, of which numpy alone takes a gigabyte.
    memory_mb: Annotated[int, Meta(ge=64, le=1_048_576)] = 4096
    time_s: Seconds = 20.0


class HostConfig(msgspec.Struct, frozen=True):
    """`livetag.toml` of the deployment directory; never read from what was pushed."""

    host: HostSection = HostSection()
    policy: PolicySection = PolicySection()
    control: ControlSection = ControlSection()
    trial: TrialSection = TrialSection()


S = TypeVar("S", bound=msgspec.Struct)


def parse_module(data: bytes, where: str) -> ModuleManifest:
    """Read a `module.toml`; `where` names the file in messages. Raises ManifestInvalid."""
    manifest = _read(data, where, ModuleManifest)
    if manifest.entry is not None and _ENTRY.fullmatch(manifest.entry) is None:
        raise _refuse(where, "entry", manifest.entry, '"module:Class", e.g. "counter:Counter"')
    _check_requires(manifest.requires, where)
    for name in manifest.emits:
        if not name or not name.isprintable():
            raise _refuse(where, "emits", name, "the name of a target module, or topics")
    for index, folder in enumerate(manifest.shared):
        if (problem := _shared_problem(folder)) is not None:
            raise _refuse(
                where, f"shared[{index}]", folder, f"a folder of the repository, e.g. lib/wire ({problem})"
            )
    if manifest.shadow != Shadow() and not manifest.pure:
        raise ManifestInvalid(
            f"{where}: [shadow] needs pure = true. A shadow handles the same messages a second time, so only a module "
            "without I/O of its own may have one: if it is so, write pure = true; else take [shadow] out."
        )
    last_parts = [folder.rpartition("/")[2] for folder in manifest.shared]
    if len(set(last_parts)) < len(last_parts):
        raise _refuse(
            where, "shared", list(manifest.shared), "folders whose last parts differ: they are imported by it"
        )
    return manifest


def parse_app(data: bytes, where: str) -> AppManifest:
    """Read an `app.toml`; `where` names the file in messages. Raises ManifestInvalid."""
    manifest = _read(data, where, AppManifest)
    taken: dict[str, str] = {}
    for name, spec in manifest.modules.items():
        if not is_package_name(name):
            raise _refuse(where, "modules", name, "a module name: lower-case letters, digits and _")
        package = name if spec.package is None else spec.package
        if (problem := package_name_problem(package)) is not None:
            raise _refuse(
                where, f"modules.{name}.package", package, f"the name of a package in modules/ ({problem})"
            )
        _plain(spec.config, where, f"modules.{name}.config")
        for alias in (name, *spec.also):
            if alias in taken or (alias != name and alias in manifest.modules):
                other = taken.get(alias, alias)
                raise _refuse(
                    where, f"modules.{name}.also", alias, f"a name that {other} does not have already"
                )
            taken[alias] = name
    return manifest


def parse_host(data: bytes, where: str) -> HostConfig:
    """Read a `livetag.toml`; `where` names the file in messages. Raises ManifestInvalid."""
    config = _read(data, where, HostConfig)
    policy = config.policy
    lists = {
        "policy.allow": policy.allow or (),
        **{f"policy.modules.{k}": v for k, v in policy.modules.items()},
    }
    for name in policy.modules:
        if not is_package_name(name):
            raise _refuse(where, "policy.modules", name, "the name of a package, or app")
    for key, names in lists.items():
        for index, who in enumerate(names):
            if Identity.parse(who) is None:
                raise _refuse(where, f"{key}[{index}]", who, ALLOWED)
    for index, name in enumerate(policy.relays):
        if not is_principal(name):
            raise _refuse(where, f"policy.relays[{index}]", name, "the name of an OS user, without os:")
    return config


def _check_requires(requires: Requires, where: str) -> None:
    if requires.python is not None:
        _check_specifiers(requires.python, where, "requires.python", ">=3.10")
    for name, specifiers in requires.modules.items():
        if not is_package_name(name):
            raise _refuse(where, "requires.modules", name, "the name of a module")
        _check_specifiers(specifiers, where, f"requires.modules.{name}", ">=1.2,<2")
    for index, text in enumerate(requires.distributions):
        from packaging.requirements import InvalidRequirement, Requirement  # 20 ms that few manifests need

        try:
            Requirement(text)
        except InvalidRequirement as error:
            allowed = 'a requirement as PEP 508 has it, e.g. "msgspec>=0.19"'
            raise _refuse(where, f"requires.distributions[{index}]", text, allowed) from error


def _check_specifiers(text: str, where: str, key: str, example: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # as above

    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise _refuse(
            where, key, text, f'version specifiers as PEP 440 has them, e.g. "{example}"'
        ) from error


def _shared_problem(folder: str) -> str | None:
    parts = folder.split("/")
    if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", part) for part in parts):
        return "relative, with / between plain names and no .."
    if parts[0] == "modules":
        return "another module's package cannot be shared: move the common code to a folder outside modules/"
    return package_name_problem(parts[-1])


def _plain(value: object, where: str, key: str) -> None:
    """Refuse what cannot stand in the journal and on the wire: dates, infinities, integers over 64 bits."""
    if isinstance(value, dict):
        for name, item in value.items():
            _plain(item, where, _join(key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _plain(item, where, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise _refuse(where, key, value, "a finite number")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _refuse(where, key, value, "an integer of 64 bits")
    elif not isinstance(value, str | bool | int | float):
        raise _refuse(
            where, key, str(value), "text, a number, true or false, a list or a table (write dates as text)"
        )


def _read(data: bytes, where: str, shape: type[S]) -> S:
    if len(data) > MANIFEST_BYTES_MAX:
        raise ManifestInvalid(f"{where}: {len(data)} bytes; at most {MANIFEST_BYTES_MAX} are allowed.")
    try:
        document = tomli.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ManifestInvalid(f"{where}: not UTF-8 text (byte {error.start}); TOML is UTF-8.") from error
    except (tomli.TOMLDecodeError, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ManifestInvalid(f"{where}: not valid TOML: {reason}.") from error
    _check_depth(document, where)
    return _struct(document, shape, where, "")


def _check_depth(document: object, where: str) -> None:
    """Refuse `a.a.a.a…`: tomli reads it without recursion, and every reader after it would overflow."""
    level = [document]
    for _ in range(TABLE_DEPTH_MAX):
        level = [
            item
            for value in level
            for item in (
                value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            )
        ]
    if level:
        raise ManifestInvalid(f"{where}: nested too deeply; at most {TABLE_DEPTH_MAX} levels are allowed.")


def _struct(value: object, shape: type[S], where: str, key: str) -> S:
    """Like msgspec.convert, but the error names the whole key, its value and the keys that are allowed."""
    if not isinstance(value, dict):
        raise _refuse(where, key, value, "a table")
    hints = get_type_hints(shape, include_extras=True)
    fields: dict[str, object] = {}
    for name, item in value.items():
        inner = _join(key, name)
        if name not in hints:
            allowed = ", ".join(hints)
            raise ManifestInvalid(f"{where}: unknown key {inner} (= {item!r:.60}); allowed here: {allowed}.")
        fields[name] = _value(item, hints[name], where, inner)
    return shape(**fields)


def _join(key: str, name: str) -> str:
    # A quoted TOML key may hold anything, an escape sequence for a terminal too.
    bare = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f"{name!r:.60}"
    return f"{key}.{bare}" if key else bare


def _value(value: object, shape: Any, where: str, key: str) -> object:  # Any: a type expression has no type
    origin, arguments = get_origin(shape), get_args(shape)
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        return _struct(value, shape, where, key)
    if origin is dict and isinstance(value, dict) and arguments[1] is not Any:
        return {name: _value(item, arguments[1], where, _join(key, name)) for name, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_value(item, arguments[0], where, f"{key}[{index}]") for index, item in enumerate(value))
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _refuse(where, key, value, _allowed(shape)) from error


_WORDS: dict[object, str] = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
_BOUNDS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("gt", lambda bound: f"above {bound:g}"),
    ("ge", lambda bound: f"at least {bound:g}"),
    ("le", lambda bound: f"at most {bound:g}"),
    ("max_length", lambda bound: f"1 to {bound} characters"),
)


def _allowed(shape: Any) -> str:  # Any: a type expression has no type
    """Say a field's type as a person would: `a number above 0 and at most 60000`."""
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is Annotated:
        bounds = [
            say(getattr(meta, name)) for meta in arguments[1:] for name, say in _BOUNDS if _has(meta, name)
        ]
        return f"{_allowed(arguments[0])} {' and '.join(bounds)}"
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(_allowed(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"a list, each {_allowed(arguments[0])}"
    if origin is dict:
        return "a table"
    return _WORDS.get(shape, str(shape))


def _has(meta: object, name: str) -> bool:
    return getattr(meta, name, None) is not None


def _refuse(where: str, key: str, value: object, allowed: str) -> ManifestInvalid:
    return ManifestInvalid(f"{where}: {key} = {value!r:.80} is not allowed; allowed: {allowed}.")
