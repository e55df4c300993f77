"""Who may release what: the rules, as values. Pure: no I/O, no clock (DESIGN §4, §6 P7).

The default policy asks who pushes, the strict one who signed. What both read lies in the deployment directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from repo_store.errors import ManifestInvalid
from repo_store.identity import Identity, is_principal
from repo_store.manifest import PolicySection
from repo_store.release import APP, is_package_name

RELEASERS = "releasers"
ALLOWED_SIGNERS = "allowed_signers"
REVOKED_SIGNERS = "revoked_signers"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of `releasers`: who (a principal or a pattern) may release which packages (names or patterns)."""

    who: str
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Releasers:
    """Who may release which package, by the principal of a signature. What no line allows is not allowed."""

    rules: tuple[Rule, ...] = ()

    def permits(self, principal: str, package: str) -> bool:
        """Whether this principal may release this package; `app` is the composition."""
        return any(
            fnmatchcase(principal, rule.who) and any(fnmatchcase(package, each) for each in rule.packages)
            for rule in self.rules
        )


def parse_releasers(data: bytes, where: str) -> Releasers:
    """Read `WHO PACKAGE[,PACKAGE…]` lines; `#` begins a comment. Raises ManifestInvalid naming file and line."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestInvalid(f"{where}: not UTF-8 text (byte {error.start}).") from error
    return Releasers(tuple(_rules(text, where)))


def _rules(text: str, where: str) -> Iterable[Rule]:
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        who, packages = words[0], tuple(words[1:])
        if not is_principal(who.replace("*", "x").replace("?", "x")):
            raise _refuse(
                where, number, who, "a principal or a pattern, e.g. alice@example.org or *@example.org"
            )
        if not packages:
            raise _refuse(where, number, line.strip(), "WHO and the packages: alice@example.org rib,decoder")
        for package in packages:
            plain = package.replace("*", "x").replace("?", "x")
            if not is_package_name(plain):
                raise _refuse(where, number, package, f"the name of a package, {APP}, or a pattern such as *")
        yield Rule(who, packages)


def _refuse(where: str, number: int, value: str, allowed: str) -> ManifestInvalid:
    return ManifestInvalid(f"{where}: line {number}: {value!r:.80} is not allowed; allowed: {allowed}.")


def push_problem(section: PolicySection, who: Identity, package: str | None) -> str | None:
    """Why `who` may not push what releases `package` (None: a ref that releases nothing), as a sentence; or None.

    The list of a package stands in the place of the general one. Whoever is named anywhere may push the rest.
    """
    if section.allow is None and not section.modules:
        return None
    named = section.modules.get(package) if package is not None else _all_named(section)
    allowed = section.allow if named is None else named
    if allowed is None or str(who) in allowed:
        return None
    what = f"release {package}" if package is not None else "push"
    key = f"policy.modules.{package}" if package in section.modules else "policy.allow"
    listed = ", ".join(allowed) or "nobody"
    return f"{who} may not {what} here. livetag.toml, {key}, allows: {listed}. Ask one of them, or the host's owner."


def _all_named(section: PolicySection) -> tuple[str, ...] | None:
    if section.allow is None:
        return None
    return tuple(dict.fromkeys((*section.allow, *(who for each in section.modules.values() for who in each))))
