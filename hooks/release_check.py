"""The static judgement on the release tags of a push: what reading them tells, before any is accepted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hooks.push import Command
from repo_store.errors import ReleaseInvalid, StoreError
from repo_store.inspect import inspect_release
from repo_store.refs import Peeler
from repo_store.release import APP, Tag, parse_tag
from repo_store.store import RepoStore


def tag_problems(commands: Sequence[Command], store: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield one text for each tag that cannot go live. `environ` leads to the objects still in quarantine.

    Tags outside the grammar and deletions are not judged. A package at a commit is read once, however many tags
    of the push select it.
    """
    pushed = [(tag, each.new) for each in commands if each.new and (tag := parse_tag(each.tag_name))]
    if not pushed:
        return
    with RepoStore.open(store, environ) as opened:
        commits = Peeler(opened.door).commits(object_id for _, object_id in pushed)
        check = _Check(opened, frozenset(tag.package for tag, _ in pushed))
        judged: dict[tuple[str, str], str | None] = {}
        for tag, object_id in pushed:
            commit_id = commits[object_id]
            if commit_id is None:
                yield f"refused: {tag.name}: it points at no commit, so it releases nothing. Tag a commit."
                continue
            key = (tag.package, commit_id)
            if key not in judged:
                judged[key] = check.problem(tag, commit_id)
            if judged[key] is not None:
                yield f"refused: {tag.name}: {judged[key]}"


@dataclass(frozen=True, slots=True)
class _Check:
    store: RepoStore
    pushed: frozenset[str]  # the packages that get a tag in this push

    def problem(self, tag: Tag, commit_id: str) -> str | None:
        """Why what this tag selects can never go live, or None."""
        try:
            if tag.package == APP:
                self._composition(commit_id)
            else:
                inspect_release(self.store, commit_id, tag.package)
        except StoreError as error:
            return str(error)
        return None

    def _composition(self, commit_id: str) -> None:
        # a package without a tag of its own comes from the commit of the app/ tag (DESIGN §4)
        manifest = self.store.app_manifest(commit_id)
        released = {ref.tag.package for ref in self.store.refs().values()} | self.pushed
        here = self.store.modules_at(commit_id)
        for name, module in manifest.modules.items():
            package = module.package or name
            if package in released:
                continue
            if package not in here:
                raise ReleaseInvalid(
                    f"app.toml: modules.{name}: package {package!r} has neither a tag nor a folder "
                    f"modules/{package}/ at commit {commit_id[:12]}. Add one of them, or take the module out of app.toml."
                )
            inspect_release(self.store, commit_id, package)
