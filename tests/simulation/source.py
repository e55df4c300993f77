"""Where the versions of a world come from: their trials and their loads end as drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.runtime.errors import ModuleError
from orchestrator.runtime.loader import Loaded
from orchestrator.runtime.table_image import TableImage
from orchestrator.upgrade.errors import TrialFailed
from orchestrator.upgrade.incoming import Code, StateCopy
from orchestrator.upgrade.trial import TrialReport
from tests.simulation.modules import Spec, blueprint

if TYPE_CHECKING:
    from tests.simulation.life import Life


class NothingLoaded(Loaded):
    """Stands for the load of a version, by which its steps are known as another's; nothing of it is on a disk."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), (), "")

    def unload(self) -> None:
        """There is nothing to forget."""


class VirtualSource:
    """Where a version of a world comes from; the verdict of its trial is drawn with it."""

    def __init__(self, life: Life, spec: Spec) -> None:
        self._life = life
        self._spec = spec

    async def try_out(
        self,
        _state: StateCopy | None,
        _open_keys: Mapping[str, bytes],
        _tables: Sequence[TableImage] = (),
    ) -> TrialReport:
        life, fault = self._life, self._spec.fault
        await life.clock_sleep(self._spec.slow_s)
        if fault == "trial":
            raise TrialFailed("self_test", "the trial says no")
        if fault == "trial hangs":
            await life.clock_sleep(20.0)
            raise TrialFailed("import", "the trial did not end within trial.time_s = 20")
        if fault == "trial once" and life.rng.random() < 0.5:
            raise TrialFailed("", "the child could not be started", "moment")
        return TrialReport(b"", {}, lost=())

    async def load(self) -> Code:
        life, fault = self._life, self._spec.fault
        await life.clock_sleep(self._spec.slow_s)
        if fault == "import":
            raise ModuleError("importing it raised ValueError")
        if fault == "deadly import":
            life.die("at an import")
        return Code(blueprint(self._spec.shape), NothingLoaded(), "counter:Counter")
