"""What can go wrong between modules: one small family, each message with a way out."""

from __future__ import annotations


def error_text(error: BaseException) -> str:
    """`KeyError: 'n'`, whatever the error is: an author's own `__str__` may raise."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # an error that cannot be told is told by its name
        return f"{name} (its text cannot be shown)"
    return f"{name}: {text}" if text else name


class ModuleError(Exception):
    """Base of all that the runtime raises on purpose."""


class NotInService(ModuleError):
    """State, send or ask was used by an implementation that does not serve (yet, or any more)."""


class ResourceAbsent(NotInService):
    """A resource was read where it is not open (yet, or in a trial)."""


class SourceRefused(ModuleError):
    """What was to be attached cannot be: no such intake, or an id that is taken."""


class UnknownName(ModuleError):
    """No module is bound to the name."""


class Disabled(UnknownName):
    """The module of that name is loaded, but out of service; the message says by whom, why, and how it comes back."""


class UnknownMessage(ModuleError):
    """The module does not handle messages of this type."""


class BodyRefused(ModuleError):
    """The body does not fit the parameters of the handler."""


class Misfit(BodyRefused):
    """The same, as the decoder says it: not yet with the names of module and version."""


class ReplyRefused(ModuleError):
    """What the handler returned to one who asks is not plain data."""


class MailboxFull(ModuleError):
    """No room became free in the target's mailbox before the deadline."""


class AskCycle(ModuleError):
    """The ask would wait for a module that already waits for the asker."""


class AskTimeout(ModuleError):
    """No reply came before the deadline; the message may still be handled later."""


class NotReplayed(ModuleError):
    """A shadow asked what the version in service did not ask, so there is no reply to give it."""


class HandlerFailed(ModuleError):
    """The handler that was asked raised; the message is in the dead letters."""


class Leaving(ModuleError):
    """The module leaves service (removed, or the host stops) before the message was handled."""


class DefinitionInvalid(ModuleError):
    """A Module class is not written as DESIGN §5 asks."""


class LoadFailed(ModuleError):
    """A package could not be imported beside the running version."""


class StateInvalid(ModuleError):
    """A state does not fit its type, or is not plain data."""


class MigrationMissing(ModuleError):
    """No chain of migration steps leads from one state version to the other."""


class DurabilityLost(ModuleError):
    """The disk takes nothing more: what durable modules did and had not written is known only after a restart."""


class QuiesceTimeout(ModuleError):
    """A module did not reach a message boundary in time; every module serves on, as before."""


class Stalled(BaseException):
    """A handler did not give the event loop back and was interrupted by the watchdog.

    A BaseException, so that `except Exception` in author code does not swallow it.
    """


class Overrun(BaseException):
    """Author code in the switch used more than its time.

    A BaseException, so that `except Exception` in author code does not swallow it.
    """


class TaskExit(BaseException):
    """A task that a module started raised SystemExit or KeyboardInterrupt.

    A BaseException, as those are, so that `except Exception` in author code does not swallow it.
    """
