"""What the control socket can do, one small method per operation (DESIGN §9). The JSON shapes are in `facts`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from orchestrator.control import facts
from orchestrator.control.server import Emit, Operation
from orchestrator.control.wire import BadRequest, Refused
from orchestrator.runtime.application import Application
from orchestrator.runtime.errors import (
    BodyRefused,
    HandlerFailed,
    ModuleError,
    StateInvalid,
    UnknownMessage,
)
from orchestrator.upgrade import words
from orchestrator.upgrade.errors import JournalFailed
from orchestrator.upgrade.image import unsavable
from orchestrator.upgrade.plan import Key
from orchestrator.upgrade.planner import Outlook
from orchestrator.upgrade.progress import Event
from orchestrator.upgrade.records import Lifted, Quarantined
from orchestrator.upgrade.rollback import RollbackRefused, plan_rollback, shown
from orchestrator.upgrade.upgrader import Cause, Upgrader
from orchestrator.upgrade.verdict import Verdict, View, verdict
from repo_store.errors import RefChanged, StoreError
from repo_store.manifest import HostConfig
from repo_store.release import parse_tag

A = TypeVar("A")
SEND_TIMEOUT_S = 5.0


class StopHost(Protocol):
    def __call__(self, *, restart: bool) -> None: ...


class _Name(msgspec.Struct):
    name: str
    path: str | None = None


class _Message(msgspec.Struct):
    name: str
    type: str
    body: Any = None  # Any: a body is the author's data
    timeout_s: float = SEND_TIMEOUT_S


class _Publication(msgspec.Struct):
    topic: str
    body: Any = None


class _History(msgspec.Struct):
    module: str | None = None
    limit: int = 50


class _Tag(msgspec.Struct):
    tag: str
    wait: bool = True


class _OptionalTag(msgspec.Struct):
    tag: str | None = None


class _RefChange(msgspec.Struct):
    ref: str
    old: str | None = None
    new: str | None = None


class _Push(msgspec.Struct):
    changes: list[_RefChange]
    options: list[str] = []
    who: str = ""


class _Rollback(msgspec.Struct):
    module: str | None = None
    txn: int | None = None
    only: bool = False
    to: str | None = None
    reason: str | None = None
    dry_run: bool = False


class _Letters(msgspec.Struct):
    action: str
    id: int | None = None


class Operations:
    """The host's answers. Expected failures are `Refused`; anything else is a bug and logged as one."""

    def __init__(
        self,
        app: Application,
        upgrader: Upgrader,
        config: HostConfig,
        failed: Mapping[str, str],
        stop: StopHost,
    ) -> None:
        self._app = app
        self._upgrader = upgrader
        self._config = config
        self._failed = failed
        self._stop = stop
        self._since = app.clock.wall()

    def table(self) -> Mapping[str, Operation]:
        """Operation name → coroutine function, for the control server."""
        mine: dict[str, Callable[[dict[str, object], Emit], Awaitable[object]]] = {
            "ping": self._ping,
            "status": self._status,
            "history": self._history,
            "plan": self._plan,
            "deploy": self._deploy,
            "push": self._push,
            "retry": self._retry,
            "rollback": self._rollback,
            "state": self._state,
            "send": self._send,
            "ask": self._ask,
            "publish": self._publish,
            "dead_letters": self._dead_letters,
            "restart": self._restart,
            "stop": self._stop_host,
            "wake": self._wake,
        }
        return {name: _expected(operation) for name, operation in mine.items()}

    # -- facts -------------------------------------------------------------------------------------------------

    async def _ping(self, _request: dict[str, object], _emit: Emit) -> object:
        return {"pid": os.getpid()}

    async def _status(self, _request: dict[str, object], _emit: Emit) -> object:
        return facts.status(self._app, self._upgrader, self._failed, self._since)

    async def _history(self, request: dict[str, object], _emit: Emit) -> object:
        asked = _read(request, _History)
        return facts.history(self._upgrader.book.ledger, asked.module, asked.limit)

    async def _plan(self, request: dict[str, object], _emit: Emit) -> object:
        asked = _read(request, _OptionalTag)
        upgrader = self._upgrader
        refs = await upgrader.repository.refs()
        if asked.tag is not None:
            self._known_tag(asked.tag, refs)
        outlook = await upgrader.planner.look(refs, upgrader.book.ledger)
        return facts.plan(
            outlook.plan, asked.tag, self._verdict(asked.tag) if asked.tag is not None else None
        )

    async def _state(self, request: dict[str, object], _emit: Emit) -> object:
        asked = _read(request, _Name)
        implementation = self._app.names.resolve(asked.name).implementation
        if implementation is None:
            raise Refused(f"{asked.name} has no implementation in service. Look at livetag status.")
        return facts.part_of(implementation.state, asked.path, asked.name)

    # -- deployments -------------------------------------------------------------------------------------------

    async def _wake(self, _request: dict[str, object], _emit: Emit) -> object:
        self._upgrader.look(push_over=True)
        return None

    async def _deploy(self, request: dict[str, object], emit: Emit) -> object:
        asked = _read(request, _Tag)
        self._known_tag(asked.tag, await self._upgrader.repository.refs())
        return await self._outcomes([asked.tag], emit, wait=asked.wait)

    async def _push(self, request: dict[str, object], emit: Emit) -> object:
        asked = _read(request, _Push)
        tags = [c.ref.removeprefix("refs/tags/") for c in asked.changes if c.ref.startswith("refs/tags/")]
        if "plan" in asked.options:
            return await self._planned({c.ref.removeprefix("refs/tags/"): c.new for c in asked.changes})
        if asked.who:
            self._upgrader.told(tags, Cause(asked.who))
        return await self._outcomes(tags, emit, wait="no-wait" not in asked.options)

    async def _planned(self, changes: Mapping[str, str | None]) -> object:
        """What a push of these tags would do (`-o plan`). Nothing is moved."""
        upgrader = self._upgrader
        refs = await upgrader.repository.refs_after(changes)
        outlook = await upgrader.planner.look(refs, upgrader.book.ledger)
        rows = []
        for tag in changes:
            would = words.would_do(tag, outlook.plan) or verdict(tag, self._view(outlook)).text
            rows.append({"tag": tag, "verdict": "plan", "text": would})
        return {"tags": rows}

    async def _outcomes(self, tags: Sequence[str], emit: Emit, *, wait: bool) -> object:
        """Look again, pass on what happens, and say what became of each tag once it is decided."""

        def listen(event: Event) -> None:
            mine = [tag for tag in event.tags if tag in tags]
            if mine:
                emit({"tag": " ".join(mine), "phase": event.phase, "text": event.text})

        with self._upgrader.progress.listening(listen):
            number = self._upgrader.look(push_over=True)
            if wait:
                await self._upgrader.passed(number)
                while self._upgrader.will_look_again and any(
                    v.word == "under way" for v in self._verdicts(tags)
                ):
                    await self._upgrader.next_pass()
        if not wait:
            text = "not waited for; see livetag history"
            return {"tags": [{"tag": t, "verdict": "under way", "text": text} for t in tags]}
        return {"tags": [{"tag": v.tag, "verdict": v.word, "text": v.text} for v in self._verdicts(tags)]}

    def _verdicts(self, tags: Sequence[str]) -> list[Verdict]:
        return [self._verdict(tag) for tag in tags]

    def _verdict(self, tag: str) -> Verdict:
        return verdict(tag, self._view(self._upgrader.outlook))

    def _view(self, outlook: Outlook) -> View:
        upgrader = self._upgrader
        return View(
            outlook.refs,
            outlook.tags,
            upgrader.book.ledger,
            outlook.plan,
            upgrader.retries.all_pending(),
            self._config.host.prereleases,
            upgrader.trouble,
        )

    @staticmethod
    def _known_tag(tag: str, refs: Mapping[str, object]) -> None:
        if parse_tag(tag) is None:
            raise Refused(f"{tag!r} is not a release tag; they are <package>/v<X.Y.Z>, e.g. counter/v1.2.0.")
        if tag not in refs:
            raise Refused(f"The repository has no tag {tag}. Push it first: git push live {tag}.")

    async def _retry(self, request: dict[str, object], emit: Emit) -> object:
        asked = _read(request, _Tag)
        refs = await self._upgrader.repository.refs()
        taken_back = self._taken_back(asked.tag) if asked.tag not in refs else None
        if taken_back is not None:
            await self._upgrader.lift(self._quarantined_with(taken_back), "livetag retry", "asked for")
            text = f"commit {taken_back[1][:12]} is out of quarantine. Push its tag again: git push live {asked.tag}"
            return {"tags": [{"tag": asked.tag, "verdict": "lifted", "text": text}]}
        self._known_tag(asked.tag, refs)
        ref = refs[asked.tag]
        keys = self._quarantined_with((ref.tag.package, ref.commit_id or ""))
        if not keys:
            raise Refused(
                f"{asked.tag} is not in quarantine; nothing was changed. livetag plan {asked.tag} says what it is."
            )
        await self._upgrader.lift(keys, "livetag retry", "asked for")
        return await self._outcomes([asked.tag], emit, wait=asked.wait)

    def _taken_back(self, tag: str) -> Key | None:
        """What was last quarantined under a tag that is not there: the push that brought it took it back."""
        found = [q for q in self._upgrader.book.ledger.quarantine.values() if q.tag == tag]
        last = max(found, key=lambda q: q.seq, default=None)
        return None if last is None else (last.package, last.commit_id)

    def _quarantined_with(self, key: Key) -> list[Key]:
        """All packages that were quarantined at this commit: they failed together."""
        quarantine = self._upgrader.book.ledger.quarantine
        return [k for k in quarantine if k[1] == key[1]] if key in quarantine else []

    async def _rollback(self, request: dict[str, object], emit: Emit) -> object:
        asked = _read(request, _Rollback)
        upgrader = self._upgrader
        refs = await upgrader.repository.refs()
        rollback = plan_rollback(
            upgrader.book.ledger, refs, module=asked.module, txn=asked.txn, only=asked.only, to=asked.to
        )
        if asked.dry_run:
            return shown(rollback)
        if not asked.reason:
            raise Refused(
                "A rollback needs a reason; the next reader of the history has only that. Add --reason TEXT."
            )
        tags = {step.tag: step.commit_id for step in rollback.steps}
        names = [tag.name for tag in tags]
        upgrader.deploy_together(names)
        upgrader.told(names, Cause("livetag rollback", asked.reason, rollback.txn))
        message = f"Roll back transaction {rollback.txn}: {asked.reason}"
        for package, commit_id in rollback.lifted:
            upgrader.book.append(Lifted(package, commit_id, "livetag rollback", asked.reason))
        await upgrader.book.flush()
        await upgrader.repository.write_tags(tags, message, "livetag rollback <livetag@localhost>")
        for package, commit_id in rollback.quarantine:
            entry = next(
                e
                for e in upgrader.book.ledger.table.values()
                if (e.package, e.commit_id) == (package, commit_id)
            )
            upgrader.book.append(
                Quarantined(package, commit_id, entry.tag, f"rolled back by hand: {asked.reason}")
            )
        await upgrader.book.flush()
        return await self._outcomes(names, emit, wait=True)

    # -- messages ----------------------------------------------------------------------------------------------

    async def _send(self, request: dict[str, object], _emit: Emit) -> object:
        asked = _read(request, _Message)
        self._fits(asked)
        number = await self._app.send(asked.name, asked.type, asked.body, timeout_s=asked.timeout_s)
        return {"id": number}

    async def _ask(self, request: dict[str, object], _emit: Emit) -> object:
        asked = _read(request, _Message)
        self._fits(asked)
        try:
            reply = await self._app.ask(asked.name, asked.type, asked.body, timeout_s=asked.timeout_s)
        except HandlerFailed as error:
            raise Refused(
                f"{error}. {asked.name} serves on; the message is in the dead letters: livetag dead-letters list."
            ) from error
        return facts.plain(reply)

    async def _publish(self, request: dict[str, object], _emit: Emit) -> object:
        asked = _read(request, _Publication)
        if not asked.topic.isprintable() or asked.topic.strip(" *") != asked.topic or not asked.topic:
            raise BadRequest(
                f"{asked.topic!r} is no topic to publish to. Topics are dotted words, e.g. clock.second; "
                "a * is for those who subscribe."
            )
        _plain(asked.body)
        return {"subscribers": await self._app.publish(asked.topic, asked.body)}

    def _fits(self, asked: _Message) -> None:
        """Refuse at the door what the module in service would refuse: nothing was accepted then."""
        proxy = self._app.names.resolve(asked.name)
        _plain(asked.body)
        message = self._app.message(asked.type, asked.body, "")
        try:
            proxy.check(message)
        except UnknownMessage as error:
            raise Refused(f"{error}. Nothing was sent.") from None
        except BodyRefused as error:
            implementation = proxy.implementation
            schema = (
                implementation.blueprint.handlers[asked.type].schema if implementation is not None else {}
            )
            raise Refused(
                f"{error}. Nothing was sent. It takes {facts.fields(schema)}; on the command line n=1 is a text and "
                "n:=1 a number."
            ) from None

    async def _dead_letters(self, request: dict[str, object], _emit: Emit) -> object:
        asked = _read(request, _Letters)
        if asked.action == "list":
            return [facts.letter(letter) for letter in self._app.letters]
        if asked.action not in {"retry", "drop"}:
            raise BadRequest(f"dead_letters: no action {asked.action!r}; there are list, retry and drop.")
        numbers = [letter.number for letter in self._app.letters] if asked.id is None else [asked.id]
        return {asked.action: [await self._act_on_letter(number, asked.action) for number in numbers]}

    async def _act_on_letter(self, number: int, action: str) -> int:
        letter = next((x for x in self._app.letters if x.number == number), None)
        if letter is None:
            raise Refused(
                f"There is no dead letter {number}; livetag dead-letters list shows those there are."
            )
        if action == "retry":
            proxy = self._app.names.resolve(letter.module)
            message = msgspec.structs.replace(letter.message, again=True, reply=None, path=())
            await proxy.post(message, SEND_TIMEOUT_S)
        self._app.letters.take(number)
        return number

    # -- the host ----------------------------------------------------------------------------------------------

    async def _restart(self, _request: dict[str, object], _emit: Emit) -> object:
        lost = unsavable(self._app)
        if lost:
            what = " ".join(f"{name}: {why}" for name, why in sorted(lost.items()))
            raise Refused(
                f"A restart would lose state that cannot be saved. {what} Nothing was done. Bring the state back to plain "
                "data (None, bool, int of 64 bits, float, str, bytes, list, dict); a stop by SIGTERM gives it up."
            )
        asyncio.get_running_loop().call_soon(lambda: self._stop(restart=True))
        return {"pid": os.getpid()}

    async def _stop_host(self, _request: dict[str, object], _emit: Emit) -> object:
        asyncio.get_running_loop().call_soon(lambda: self._stop(restart=False))
        return {"pid": os.getpid()}


def _expected(operation: Operation) -> Operation:
    """The operation with the family of expected errors made `Refused`."""

    async def run(request: dict[str, object], emit: Emit) -> object:
        try:
            return await operation(request, emit)
        except (ModuleError, RollbackRefused, StoreError, RefChanged, JournalFailed, StateInvalid) as error:
            raise Refused(str(error)) from error

    return run


def _plain(body: object) -> None:
    """Refuse what could not be kept over a stop of the host, before it is accepted. Raises Refused."""
    try:
        msgspec.msgpack.encode(body)
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise Refused(f"The body is not plain data: {error}. Nothing was sent.") from None


def _read(request: dict[str, object], shape: type[A]) -> A:
    """The arguments as `shape`. Raises BadRequest naming the one that is wrong."""
    try:
        return msgspec.convert({k: v for k, v in request.items() if k != "op"}, shape)
    except msgspec.ValidationError as error:
        raise BadRequest(f"wrong argument: {error}. `livetag COMMAND --help` says what it takes.") from None
