"""A copy of the scratch deployment with the user's modules: one for each kill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.control.client import ControlError
from orchestrator.control.clone import Clone
from orchestrator.control.config import Deployment
from orchestrator.control.init import REMOTE
from orchestrator.control.selftest.errors import Broken
from orchestrator.control.selftest.scratch import Facts, Scratch, Served
from orchestrator.runtime.state import PLAIN_STATE
from orchestrator.runtime.table_image import TableImage, records_of
from orchestrator.upgrade.journal import ModuleImage
from orchestrator.upgrade.ledger import Ledger
from orchestrator.upgrade.state_file import StateFile

PUSH_S = 120.0


class Copy(Scratch):
    """The user's modules in a deployment of their own, in `folder`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(Deployment(folder / "d"), folder / "work", folder / "host.log", environment)
        self.folder = folder
        self.states_compared = 0

    @classmethod
    def of(cls, like: Path, folder: Path, environment: Mapping[str, str]) -> Copy:
        """A copy of the deployment and clone in `like`, whose host does not run."""
        folder.mkdir()
        for part in ("d", "work"):
            shutil.copytree(like / part, folder / part, symlinks=True)
        copy = cls(folder, environment)
        Clone(copy.clone_path, environment).run("remote", "set-url", REMOTE, str(copy.place.store))
        return copy

    def serves(self) -> Served:
        """Version and state version that the loaded code itself gives, with the tree that the host says it is."""
        return {name: self._serves(name, row) for name, row in self.status()["modules"].items()}

    def _serves(self, name: str, row: Facts) -> str:
        try:
            said = self.call("interface", name=name)
        except ControlError as error:
            return f"not in service ({row.get('problem') or error})"
        return _words(said["version"], row["tree"], said["state"]["version"])

    def table_of(self, ledger: Ledger) -> Served:
        return {e.name: _words(e.version, e.tree_id, e.state_version) for e in ledger.table.values()}

    def go_further(self, tag: str) -> None:
        """Push one more release: after a death, deploying still works."""
        pushing = self.begin_push(tag)
        said = self.finished(pushing, PUSH_S)
        if pushing.returncode != 0:
            raise Broken(f"after the death another release, {tag}, goes live", said.strip())

    def remembers(self, images: Mapping[str, ModuleImage]) -> None:
        """See that modules that have handled nothing since the start have the state that was saved. Raises Broken."""
        rows = self.status()["modules"]
        for name, image in images.items():
            if name not in rows or rows[name]["mailbox"]["handled"] or image.mailbox:
                continue
            try:
                file = msgspec.convert(self.call("state_export", name=name)["file"], StateFile)
            except ControlError:
                continue  # it is not loaded, which `serves` has said
            if (
                self.status()["modules"][name]["mailbox"]["handled"]
                or file.state_version != image.state_version
            ):
                continue  # it moved on meanwhile
            self.states_compared += 1
            saved, found = PLAIN_STATE.decode(image.state), file.content()
            if saved != found:
                raise Broken(
                    f"{name} has the state of the last clean stop: {saved!r:.300}", f"{found!r:.300}"
                )
            _same_records(name, image.tables, file.images())


def _words(version: str, tree_id: str, state_version: int) -> str:
    return f"{version} (tree {tree_id[:8]}, state {state_version})"


def _same_records(name: str, saved: tuple[TableImage, ...], found: tuple[TableImage, ...]) -> None:
    versions, now = ({image.name: image.version for image in images} for images in (saved, found))
    if len(saved) > len(versions) or (now != versions and now.keys() == versions.keys()):
        return  # records are being converted, which goes on by itself
    was, there = _records(saved), _records(found)
    if was != there:
        same = sum(there.get(key) == record for key, record in was.items())
        raise Broken(
            f"{name} has the {len(was)} records of its Tables that the last clean stop saved",
            f"{len(there)}, of which {same} are as they were",
        )


def _records(images: tuple[TableImage, ...]) -> dict[tuple[str, Any], bytes]:  # Any: the author's keys
    return {(image.name, key): record for image in images for key, record in records_of(image)}
