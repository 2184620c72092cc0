"""The setting event_webhooks: a list, or one text; what is wrong with it is said."""

import pytest

from mlxmesh_shared.settings import GatewaySettings, SettingsError, load_settings

HOOK = "http://127.0.0.1:9000/events?key=x model.* engine.crashed"


def loaded(text: str) -> tuple[str, ...]:
    env = {"MLXMESH_GATEWAY_EVENT_WEBHOOKS": text}
    return load_settings(GatewaySettings, env=env).event_webhooks


def test_a_variable_has_several_with_commas_between() -> None:
    assert loaded(f"{HOOK}, https://hooks.example") == (HOOK, "https://hooks.example")
    assert loaded("") == ()


def test_a_file_has_a_list() -> None:
    assert GatewaySettings(event_webhooks=(HOOK,)).event_webhooks == (HOOK,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://127.0.0.1/x", "must begin with a URL"),
        ("127.0.0.1:9000", "must begin with a URL"),
        ("http://", "must begin with a URL"),
        ("model.* http://127.0.0.1", "must begin with a URL"),
        ("http://127.0.0.1 model", "is not the name of an event"),
        ("http://127.0.0.1 *", "is not the name of an event"),
        ("http://[::1", "event_webhooks"),
    ],
)
def test_what_cannot_be_used_stops_the_start(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        loaded(text)
