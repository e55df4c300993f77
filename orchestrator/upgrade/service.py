"""The state of each module as it is now, from the journal and the running application (DESIGN §6, P5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from orchestrator.runtime.application import Application
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.phases import Phase
from orchestrator.upgrade.states import ModuleState


def module_states(
    app: Application, ledger: Ledger, kept: Collection[str], *, switching: bool
) -> Mapping[str, ModuleState]:
    """Module → its state, for all that serve, come into service, or wait for their return.

    `kept` are those whose state is kept; `switching`: the unfinished transaction has switched in memory.
    """
    away = {o.module for o in ledger.overrides.values() if o.what == "unload"}
    states = dict.fromkeys({*kept, *away} - ledger.table.keys(), ModuleState.UNLOADED)
    for name, entry in ledger.table.items():
        proxy = app.modules.get(name)
        if proxy is None or proxy.implementation is None:
            states[name] = ModuleState.FAILED
        else:
            states[name] = ModuleState.IN_SERVICE if entry.enabled else ModuleState.DISABLED
    unfinished = ledger.unfinished
    for change in unfinished.changes if unfinished is not None else ():
        if switching:
            states[change.name] = ModuleState.SWITCHING
        elif change.before is None and unfinished is not None and unfinished.phase is Phase.PREPARED:
            states[change.name] = ModuleState.LOADED
    return states
