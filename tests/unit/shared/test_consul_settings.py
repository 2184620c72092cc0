"""How a process is told of Consul, and what it refuses to be told."""

import pytest

from mlxmesh_shared.settings import GatewaySettings, SettingsError, load_settings


def test_a_laptop_needs_no_consul() -> None:
    settings = load_settings(GatewaySettings, env={})

    assert settings.registry == "directory"
    assert settings.consul.address == "127.0.0.1:8500"


def test_the_environment_holds_the_token() -> None:
    settings = load_settings(GatewaySettings, env={"MLXMESH_CONSUL_TOKEN": "a-secret"})

    assert settings.consul.token.get_secret_value() == "a-secret"
    assert "a-secret" not in f"{settings!r} {settings.consul.token}"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--registry", "etcd"),
        ("--consul-address", "consul"),
        ("--consul-address", ":8500"),
        ("--consul-address", "http://consul:8500/x"),
        ("--consul-prefix", "my mesh"),
        ("--consul-prefix", "Mesh"),
        ("--consul-prefix", "mesh-"),
        ("--consul-datacenter", "../dc"),
        ("--consul-check-interval-s", "0"),
        ("--zone", "a zone"),
        ("--advertise-host", "a/b"),
    ],
)
def test_what_consul_could_not_use_is_refused_with_its_name(flag: str, value: str) -> None:
    name = flag.removeprefix("--").replace("consul-", "consul.").replace("-", "_")

    with pytest.raises(SettingsError, match=f"flag {flag}: {name}: "):
        load_settings(GatewaySettings, [flag, value], env={})


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [((), None), (("--consul-check-tls",), True), (("--no-consul-check-tls",), False)],
)
def test_whether_checks_use_tls_can_be_said_or_left_open(
    flags: tuple[str, ...], wanted: bool | None
) -> None:
    assert load_settings(GatewaySettings, flags, env={}).consul.check_tls is wanted
