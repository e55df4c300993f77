"""The facts of the journal: frozen values, tagged by `kind`, encoded as JSON. No I/O here.

A fact is only ever added to, with a default, never renamed: journals outlive the code that wrote them.
"""

from typing import Annotated, Literal

import msgspec

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the release table: which release serves a module, and with which configuration.

    `config` is as `app.toml` has it: `{env = ...}` and `{file = ...}` stay unresolved, so that no secret is
    ever journaled.
    """

    name: Text
    package: Text
    version: str
    tag: str
    commit_id: str
    tree_id: str
    tag_object_id: str
    config: dict[str, object] = msgspec.field(default_factory=dict)
    also: tuple[str, ...] = ()
    enabled: bool = True
    state_version: int = 1


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one transaction does to one name: `before` None adds it, `after` None removes it."""

    name: Text
    before: Entry | None
    after: Entry | None

    @property
    def brings_code(self) -> bool:
        """Whether a version is loaded for it: another release or config, not only other names, enabled or not."""
        before, after = self.before, self.after
        if before is None or after is None:
            return after is not None
        return (before.tree_id, before.package, before.config) != (after.tree_id, after.package, after.config)


class _Fact(msgspec.Struct, frozen=True, tag_field="kind", tag=True, forbid_unknown_fields=True):
    """Base of the facts. A newer livetag's fields are refused, not half understood."""


class Planned(_Fact, frozen=True, tag=True):
    """A transaction begins, because of `why`. `reverts` is the transaction that it takes back, if it is a way back."""

    txn: int
    changes: tuple[Change, ...]
    trigger: str
    who: str
    reverts: int | None = None
    overrides: tuple[tuple[str, str], ...] = ()  # the keys of the overrides that asked for it
    app: tuple[str, str] | None = None  # the composition that asked for it: its tag and commit id
    why: str = ""


class Prepared(_Fact, frozen=True, tag=True):
    """Every participant voted yes; written before the pause."""

    txn: int


class Committed(_Fact, frozen=True, tag=True):
    """The decision: the new table is in service. Enqueued before the mailboxes reopen.

    `images_used` are the modules that serve again with what was kept for them. It is in this record, not in one behind
    it: a death between the two would give the same messages to a module twice.
    """

    txn: int
    pause_us: float
    held_messages: int
    images_used: tuple[str, ...] = ()
    predicted_us: float | None = (
        None  # of the pause, as the trials measured the migrations; None: there were none
    )


class RolledBack(_Fact, frozen=True, tag=True):
    """The transaction is over and the old table serves; `fault` says whose failure it was.

    `mismatches`: the messages that a shadow handled differently, each with a small diff; the first of them.
    """

    txn: int
    reason: str
    fault: Literal["release", "moment", "died"]
    pause_us: float = 0.0
    held_messages: int = 0
    mismatches: tuple[str, ...] = ()
    predicted_us: float | None = None


class Confirmed(_Fact, frozen=True, tag=True):
    """The probation of a committed transaction ended well, or none was asked for.

    `reason` is that of the transaction, as in Planned; `judged` says how the probation ended, or who ended it.
    """

    txn: int
    reason: str
    judged: str = ""


class Inconclusive(_Fact, frozen=True, tag=True):
    """The time of a probation is over, and too little was measured to say how it ended; it is open until it is.

    From here a death of the host is not held against what is in it.
    """

    txn: int
    reason: str


class Breached(_Fact, frozen=True, tag=True):
    """What is in probation does not keep its limits; what it brought goes back, if there is a way."""

    txn: int
    reason: str


class Degraded(_Fact, frozen=True, tag=True):
    """A probation was breached and there is no way back, or it failed: what is in it serves on, until a person decides."""

    txn: int
    reason: str


class Unchanged(_Fact, frozen=True, tag=True):
    """A deploy of what is in service already (tree, config, names): rows are renamed, nothing moves.

    So do the names of a module that is not loaded, and whether it is to be in service.
    """

    txn: int
    changes: tuple[Change, ...]
    trigger: str = ""
    who: str = ""


class Quarantined(_Fact, frozen=True, tag=True):
    """A commit failed for a package and is not tried again on its own; `paste`: source that would mend it."""

    package: str
    commit_id: str
    tag: str
    reason: str
    fatal: bool = False  # it ends the host: where it serves it is not loaded again
    paste: str = ""


class Lifted(_Fact, frozen=True, tag=True):
    """A person gave a quarantined commit another chance."""

    package: str
    commit_id: str
    who: str
    why: str


class RollbackAsked(_Fact, frozen=True, tag=True):
    """A person asked for a way back; written before its tags are. It is open until one of them serves.

    `tags` gives the commit id of each. `quarantine` are package, commit id and tag of what is left.
    """

    tags: dict[str, str]
    quarantine: tuple[tuple[str, str, str], ...]
    who: str
    why: str
    reverts: int

    def without(self, package: str, commit_id: str) -> "RollbackAsked":
        """Return it without the quarantine of a release that was given another chance since."""
        left = tuple(each for each in self.quarantine if each[:2] != (package, commit_id))
        return msgspec.structs.replace(self, quarantine=left)


Deed = Literal["load", "unload", "enable", "disable", "swap", "bind", "unbind"]
"""What a command of a person does to a module (paper §3.1, DESIGN §9)."""


class Overridden(_Fact, frozen=True, tag=True):
    """A person changed the running set by hand, against what the refs ask for.

    `value` is the package that is loaded, the version that is swapped in, or the name that is bound. `against` is the
    desired release it was made against, as tag and commit id: it holds as long as the refs give that one.
    """

    module: Text
    what: Deed
    value: str
    who: str
    why: str
    against: tuple[str, str] | None = None
    reverts: int | None = None  # the transaction that it takes back, if it is a way back


class OverrideEnded(_Fact, frozen=True, tag=True):
    """An override holds no longer. `restores`: it did not go live, so the one it replaced holds again."""

    module: Text
    what: Deed
    value: str
    why: str
    restores: bool = False


class Held(_Fact, frozen=True, tag=True):
    """Nothing deploys on its own for a module, or, where that is empty, for any."""

    module: str
    who: str
    why: str


class Unheld(_Fact, frozen=True, tag=True):
    """A hold is over."""

    module: str
    who: str
    why: str


class StateImported(_Fact, frozen=True, tag=True):
    """A person put another state in a module's place; `before` and `after` are SHA-256 of their bytes.

    `tables`: the Tables whose records were replaced with it.
    """

    module: Text
    version: str
    state_version: int
    who: str
    why: str
    before: str
    after: str
    tables: tuple[str, ...] = ()


class TagMoved(_Fact, frozen=True, tag=True):
    """A tag was seen first (`before_*` None), moved, or deleted (`object_id` None)."""

    tag: str
    object_id: str | None
    commit_id: str | None
    before_object_id: str | None
    before_commit_id: str | None
    who: str


class TagAccepted(_Fact, frozen=True, tag=True):
    """Strict policy: this tag object is an order that `principal` signed with the key of that fingerprint."""

    tag: str
    object_id: str
    commit_id: str
    principal: str
    key: str


class TagRefused(_Fact, frozen=True, tag=True):
    """Strict policy: the tag as it is now is nobody's order; an empty reason: there is nothing against it any more."""

    tag: str
    object_id: str | None
    reason: str
    who: str


class HostStarted(_Fact, frozen=True, tag=True):
    """A host took the deployment; written before any module code is loaded.

    `run` is the id of this run. `copied`: the deployment is a copy of one in which a host ran, so none has died in it.
    `rebooted`: the machine went down under the host before this one, which so died of no release.
    """

    pid: int
    version: str
    run: str = ""
    copied: bool = False
    rebooted: bool = False


class StartDied(_Fact, frozen=True, tag=True):
    """The host before this one died soon after it had started.

    `releases` are the (package, commit id) whose code ran in that moment; none: nothing says which it was.
    """

    releases: tuple[tuple[str, str], ...]
    how: str


class Settled(_Fact, frozen=True, tag=True):
    """The host has served for a while since its start: what it started with does not end it.

    `but`: the modules of which that is not so: not loaded, or switched since.
    """

    but: tuple[str, ...] = ()


class Served(_Fact, frozen=True, tag=True):
    """What is in service has served for a while since the last switch, in a host that has lasted.

    `but`: the modules that are not loaded.
    """

    but: tuple[str, ...] = ()


class HostStopped(_Fact, frozen=True, tag=True):
    """The host left on purpose. `clean`: every unit ended and the image was saved."""

    clean: bool


class ImageSaved(_Fact, frozen=True, tag=True):
    """State and mailboxes of these modules are in the same journal, written with this record."""

    modules: tuple[str, ...]


class ImageUsed(_Fact, frozen=True, tag=True):
    """The images of these modules are about to serve again, and are deleted with this record."""

    modules: tuple[str, ...]


Fact = (
    Planned
    | Prepared
    | Committed
    | RolledBack
    | Confirmed
    | Inconclusive
    | Breached
    | Degraded
    | Unchanged
    | Quarantined
    | Lifted
    | RollbackAsked
    | Overridden
    | OverrideEnded
    | Held
    | Unheld
    | StateImported
    | TagMoved
    | TagAccepted
    | TagRefused
    | HostStarted
    | StartDied
    | Settled
    | Served
    | HostStopped
    | ImageSaved
    | ImageUsed
)


def images_used(fact: Fact) -> tuple[str, ...]:
    """The modules whose image this fact takes away: it serves."""
    if isinstance(fact, Committed):
        return fact.images_used
    return fact.modules if isinstance(fact, ImageUsed) else ()


class Record(msgspec.Struct, frozen=True):
    """A fact and its place: `seq` counts from 1, `at` is unix seconds, `digest` is the chain up to here."""

    seq: int
    at: float
    fact: Fact
    digest: bytes


def encode_fact(fact: Fact) -> bytes:
    """Return the fact as JSON bytes; raises TypeError, ValueError or OverflowError if it cannot be kept."""
    try:
        return msgspec.json.encode(fact)
    except UnicodeEncodeError:
        # A file name or a Git message of bytes that are no text: the fact must be kept all the same.
        return msgspec.json.encode(_printable(msgspec.to_builtins(fact)))


def _printable(value: object) -> object:
    """Return plain data with every lone surrogate written out as an escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return value


_DECODER: msgspec.json.Decoder[Fact] = msgspec.json.Decoder(Fact)


def decode_fact(data: bytes) -> Fact:
    """Return the fact of these JSON bytes; raises msgspec.DecodeError if this livetag does not know it."""
    return _DECODER.decode(data)
