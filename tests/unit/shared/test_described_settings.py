"""Settings for people: TOML, sources, and no secrets."""

from pathlib import Path

import pytest

from mlxmesh_shared.settings import GatewaySettings, LiveSettings, ModelSettings, live_settings
from mlxmesh_shared.settings.described import DescribedSetting, described


def by_name(live: LiveSettings[GatewaySettings], service: str) -> dict[str, DescribedSetting]:
    return {f"{one.section}.{one.name}": one for one in described(live, service)}


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveSettings[GatewaySettings]:
    text = "[gateway]\nmax_connections = 7\ncors_origins = ['https://a.example']\n"
    (tmp_path / "mlxmesh.toml").write_text(text)
    monkeypatch.setenv("MLXMESH_GATEWAY_KEPT_TRACES", "9")
    monkeypatch.setenv("MLXMESH_CONSUL_TOKEN", "hunter2")
    hook = "https://u:p@hooks.example/services/T0/hunter2?key=hunter2 model.*"
    flags = ["--data-dir", str(tmp_path), "--listen", "127.0.0.1:0", "--event-webhooks", hook]
    return live_settings(GatewaySettings, flags)


def test_each_setting_says_where_it_comes_from(
    configured: LiveSettings[GatewaySettings], tmp_path: Path
) -> None:
    found = by_name(configured, "gateway")
    sources = {
        name: (found[name].source, found[name].source_name)
        for name in ("gateway.listen", "gateway.max_connections", "gateway.kept_traces")
    }
    assert sources == {
        "gateway.listen": ("command line", "--listen"),
        "gateway.max_connections": ("file", str(tmp_path / "mlxmesh.toml")),
        "gateway.kept_traces": ("environment", "MLXMESH_GATEWAY_KEPT_TRACES"),
    }
    assert (found["mesh.zone"].source, found["mesh.zone"].source_name) == ("default", "")


def test_values_and_defaults_are_toml(configured: LiveSettings[GatewaySettings]) -> None:
    found = by_name(configured, "gateway")
    assert (found["gateway.max_connections"].value, found["gateway.max_connections"].default) == (
        "7",
        "1024",
    )
    assert found["gateway.cors_origins"].value == '["https://a.example"]'
    assert found["gateway.take_over"].value == "false"
    assert found["mesh.tls_dir"].value == ""
    assert found["gateway.telemetry_sinks"].value == '["prometheus"]'


def test_secrets_are_never_shown(configured: LiveSettings[GatewaySettings]) -> None:
    shown = [*described(configured, "gateway")]
    assert not any("hunter2" in one.value or "u:p" in one.value for one in shown)
    found = by_name(configured, "gateway")
    assert found["consul.token"].value == '"***"'
    assert found["gateway.event_webhooks"].value == '["https://hooks.example/*** model.*"]'


def test_the_password_of_a_database_is_masked() -> None:
    settings = ModelSettings(database_url="postgresql://ada:secret@db.example:5432/mesh")
    [url] = [
        one
        for one in described(LiveSettings(lambda _: settings), "model")
        if one.name == "database_url"
    ]
    assert url.value == '"postgresql://ada:***@db.example:5432/mesh"'


def test_a_stored_value_is_live(configured: LiveSettings[GatewaySettings]) -> None:
    configured.apply({"max_deadline_s": "12"})
    one = by_name(configured, "gateway")["gateway.max_deadline_s"]
    assert (one.value, one.source, one.live) == ("12.0", "store", True)
    assert not by_name(configured, "gateway")["gateway.listen"].live


def test_every_setting_is_described(configured: LiveSettings[GatewaySettings]) -> None:
    assert all(one.description for one in described(configured, "gateway"))
