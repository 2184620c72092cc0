"""Where each process may listen, and with whose permission."""

import pytest

from mlxmesh_shared.settings import SETTINGS, SettingsError, load_settings

SERVICES = [name for name in SETTINGS if name != "mesh"]


def load(service: str, *argv: str) -> str:
    settings = load_settings(SETTINGS[service], argv, env={})
    return settings.model_dump()["listen"]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("listen", ["127.0.0.1:50051", "localhost:0", "[::1]:50051", "127.8.8.8:1"])
def test_loopback_needs_no_permission(service: str, listen: str) -> None:
    assert load(service, "--listen", listen) == listen


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "192.168.1.4:1", "mac.local:1"])
def test_anything_else_needs_permission(service: str, listen: str) -> None:
    with pytest.raises(SettingsError, match=r"flag --listen: .*--tls-dir.*--insecure-listen"):
        load(service, "--listen", listen)

    assert load(service, "--listen", listen, "--insecure-listen") == listen


@pytest.mark.parametrize("service", SERVICES)
def test_tls_is_such_a_permission(service: str) -> None:
    assert load(service, "--listen", "0.0.0.0:1", "--tls-dir", "/etc/mlxmesh/tls") == "0.0.0.0:1"


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("listen", ["", "50051", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:"])
def test_what_is_no_address_is_refused_even_with_permission(service: str, listen: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        load(service, "--listen", listen, "--insecure-listen")


def test_one_variable_permits_the_whole_mesh() -> None:
    env = {"MLXMESH_INSECURE_LISTEN": "true", "MLXMESH_MODEL_LISTEN": "0.0.0.0:1"}

    assert load_settings(SETTINGS["model"], env=env).insecure_listen is True


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1"])
def test_across_hosts_all_addresses_is_nobodys_address(service: str, listen: str) -> None:
    flags = ("--registry", "consul", "--listen", listen, "--insecure-listen")
    with pytest.raises(SettingsError, match=r"flag --listen: .*advertise_host"):
        load(service, *flags)

    assert load(service, *flags, "--advertise-host", "10.0.0.7") == listen


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("listen", ["::1:50051", "::1", "fe80::1:1", "[::1:50051"])
def test_an_ipv6_address_stands_in_brackets(service: str, listen: str) -> None:
    with pytest.raises(SettingsError, match=r"brackets|host:port"):
        load(service, "--listen", listen, "--insecure-listen")
