import json

from orchestrator.runtime.secrets import HIDDEN, Secrets


def secrets_of(value: str) -> Secrets:
    secrets = Secrets()
    secrets.learn({"a": [{"token": {"env": "TOKEN"}}], "port": 179}, {"a": [{"token": value}], "port": 179})
    return secrets


def test_a_value_that_config_has_from_the_host_is_hidden_and_nothing_else_is() -> None:
    secrets = secrets_of("s3cr3t-token")
    assert secrets.hide("no route with s3cr3t-token to 179") == f"no route with {HIDDEN} to 179"


def test_a_secret_is_found_in_the_ways_in_which_texts_have_it() -> None:
    value = 'line "one"\nsecond\tlïne\\'
    secrets = secrets_of(value)
    for text in (
        value,
        repr(value),
        json.dumps(value),
        repr(ValueError(value)),
        json.dumps([json.dumps(value)]),
    ):
        hidden = secrets.hide(text)
        assert "one" not in hidden
        assert "second" not in hidden, hidden
    assert json.loads(secrets.hide(json.dumps({"reason": value})))


def test_a_value_too_short_to_be_told_from_a_word_is_left() -> None:
    assert secrets_of("on").hide("it is on") == "it is on"
    assert not secrets_of("on")


def test_without_secrets_a_text_is_given_back_as_it_is() -> None:
    text = "any"
    assert Secrets().hide(text) is text
