"""The states of a module: the table of what a person may do in each, walked."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.upgrade.states import VERBS, AlreadySo, CommandRefused, ModuleState, Verb, after


@pytest.mark.parametrize(("state", "verb"), list(itertools.product(ModuleState, Verb)))
def test_a_verb_leads_where_the_table_says_or_is_answered_with_a_sentence(
    state: ModuleState, verb: Verb
) -> None:
    if verb in VERBS[state]:
        assert after("counter", state, verb) is VERBS[state][verb]
        return
    with pytest.raises((AlreadySo, CommandRefused), match=r"^counter .*\.$"):
        after("counter", state, verb)


def test_asking_for_what_is_so_already_is_no_failure() -> None:
    found = {}
    for state, verb in itertools.product(ModuleState, Verb):
        try:
            after("counter", state, verb)
        except AlreadySo as so:
            found[state, verb] = str(so)
        except CommandRefused:
            continue
    assert found == {
        (ModuleState.IN_SERVICE, Verb.LOAD): "counter is already in service; nothing was changed.",
        (ModuleState.IN_SERVICE, Verb.ENABLE): "counter is already in service; nothing was changed.",
        (ModuleState.DISABLED, Verb.LOAD): "counter is already loaded, and disabled; nothing was changed.",
        (ModuleState.DISABLED, Verb.DISABLE): "counter is already disabled; nothing was changed.",
        (ModuleState.UNLOADED, Verb.UNLOAD): "counter is already unloaded; nothing was changed.",
    }


def test_a_module_that_a_transaction_has_in_hand_is_left_to_it() -> None:
    for state, verb in itertools.product((ModuleState.LOADED, ModuleState.SWITCHING), Verb):
        with pytest.raises(CommandRefused, match=r"at this moment\. Look at livetag status, and try again"):
            after("counter", state, verb)


def test_every_verb_is_possible_from_some_state_and_every_state_is_left_by_some_verb() -> None:
    assert {verb for row in VERBS.values() for verb in row} == set(Verb)
    resting = {state for state, row in VERBS.items() if not row}
    assert resting == {ModuleState.LOADED, ModuleState.SWITCHING}
