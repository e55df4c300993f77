"""Signed orders: which tag objects were accepted for a tag, and which of them were superseded. Pure (DESIGN §4, §6 P7).

Under the strict policy a ref says nothing by itself: whoever can write it can move it back. So the journal remembers each
accepted tag object, and one that another has taken the place of is never accepted again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.upgrade.desired import Key
from orchestrator.upgrade.records import Change, TagAccepted, TagRefused
from repo_store.release import APP, RefMap, TagRef, parse_tag


@dataclass(frozen=True, slots=True)
class Order:
    """An accepted tag object. `carried`: what it asks for went live at some time."""

    object_id: str
    commit_id: str
    principal: str
    key: str
    carried: bool = False


Orders = Mapping[str, Sequence[Order]]
"""Tag → its accepted objects, oldest first."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a tag as it is now is nobody's order, since when, and who moved it there; `object_id` None: it is gone."""

    tag: str
    object_id: str | None
    reason: str
    who: str
    at: float


@dataclass(frozen=True, slots=True)
class Admission:
    """What one look at the refs may lead to: the tags that are somebody's order, and why others are not.

    `accepted` are to be journaled before anything is done with them. `barred` are packages that a composition would take
    from its own commit and whose release its signer may not order, with the reason.
    """

    refs: RefMap
    refused: Mapping[str, str]
    accepted: Sequence[TagAccepted] = ()
    barred: Mapping[Key, str] | None = None

    @property
    def all_refused(self) -> Mapping[str, str]:
        """Tag → why it is not acted on, or not wholly."""
        apps = sorted(name for name in self.refs if name.startswith(f"{APP}/") and name not in self.refused)
        barred = {
            next((n for n in reversed(apps) if self.refs[n].commit_id == commit), ""): why
            for (_, commit), why in (self.barred or {}).items()
        }
        return {**{name: why for name, why in barred.items() if name}, **self.refused}


def accept(orders: MutableMapping[str, tuple[Order, ...]], fact: TagAccepted) -> None:
    """Take the fact into `orders`."""
    before = orders.get(fact.tag, ())
    if all(order.object_id != fact.object_id for order in before):
        orders[fact.tag] = (*before, Order(fact.object_id, fact.commit_id, fact.principal, fact.key))


def carry(
    orders: MutableMapping[str, tuple[Order, ...]], changes: Sequence[Change], app: tuple[str, str] | None
) -> None:
    """Mark the orders that these changes carried out."""
    done = {(c.after.tag, c.after.commit_id) for c in changes if c.after is not None} | (
        {app} if app else set()
    )
    for tag, commit_id in done:
        if tag in orders:
            orders[tag] = tuple(
                replace(order, carried=True) if order.commit_id == commit_id else order
                for order in orders[tag]
            )


def refuse(refusals: MutableMapping[str, Refusal], fact: TagRefused, at: float) -> None:
    """Take the fact into `refusals`; without a reason, the tag is nothing to complain of any more."""
    if fact.reason:
        refusals[fact.tag] = Refusal(fact.tag, fact.object_id, fact.reason, fact.who, at)
    else:
        refusals.pop(fact.tag, None)


def in_force(tag: str, orders: Orders, quarantine: Collection[Key]) -> Order | None:
    """The newest order of a tag. One that failed and never served has replaced nothing: its push took it back."""
    parsed = parse_tag(tag)
    package = parsed.package if parsed is not None else ""
    for order in reversed(orders.get(tag, ())):
        if order.carried or (package, order.commit_id) not in quarantine:
            return order
    return None


def superseded(tag: str, object_id: str, orders: Orders, quarantine: Collection[Key]) -> bool:
    """Whether another order has taken this one's place, so that it is not given again by moving the tag back to it."""
    newest = in_force(tag, orders, quarantine)
    mine = [order.object_id for order in orders.get(tag, ())]
    return newest is not None and object_id in mine and mine.index(object_id) < mine.index(newest.object_id)


def pinned(tag: str, orders: Orders, quarantine: Collection[Key]) -> TagRef | None:
    """Where the tag points by its newest order, whatever became of the ref."""
    order, parsed = in_force(tag, orders, quarantine), parse_tag(tag)
    return (
        TagRef(parsed, order.object_id, order.commit_id) if order is not None and parsed is not None else None
    )
