"""What a host of several has in its data directory: its part, mlxmesh.toml, its agent."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mlxmesh_launcher.hosts.agent import agent_settings, check_ports, find_consul
from mlxmesh_launcher.hosts.joining import parse_where
from mlxmesh_launcher.hosts.settings_file import write_host_settings
from mlxmesh_launcher.hosts.state import (
    HostState,
    folder_of,
    read_state,
    services_here,
    write_state,
)
from mlxmesh_shared.errors import IllegalState, InvalidArgument
from mlxmesh_shared.settings import SETTINGS, GatewaySettings, load_settings

FIRST = HostState("a", "10.0.0.1", "a", consul="/opt/consul", gossip_key="secret")
JOINED = HostState(
    "b",
    "10.0.0.2",
    "a",
    consul="/opt/consul",
    gossip_key="secret",
    consul_servers=("10.0.0.1",),
    services=("runtime", "generation", "gateway"),
    renewal_address="10.0.0.1:50053",
)


def written(data_dir: Path, state: HostState = FIRST, agent: str | None = None) -> None:
    write_host_settings(
        data_dir, state, tls_dir=data_dir / "tls", consul_address=agent, prefix="mlxmesh"
    )


@pytest.mark.parametrize("state", [FIRST, JOINED])
def test_the_part_of_a_host_is_known_after_a_restart(state: HostState, tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert services_here(tmp_path) == state.services
    assert (folder_of(tmp_path) / "host.json").stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(state)


@pytest.mark.parametrize("content", ["", "[]", '{"name": "a"}', '{"services": 1}'])
def test_a_damaged_part_says_what_to_do(content: str, tmp_path: Path) -> None:
    folder_of(tmp_path).mkdir()
    (folder_of(tmp_path) / "host.json").write_text(content)
    with pytest.raises(IllegalState, match="mlxmesh up --join"):
        read_state(tmp_path)
    assert services_here(tmp_path) == ()


def test_every_service_can_be_reached_by_other_hosts(tmp_path: Path) -> None:
    written(tmp_path)
    flags = ["--data-dir", str(tmp_path)]
    for section, cls in SETTINGS.items():
        settings = load_settings(cls, flags)
        assert settings.registry == "consul"
        assert settings.advertise_host == "10.0.0.1"
        assert settings.consul.cert == tmp_path / "tls" / "consul.crt"
        if section != "mesh":
            assert getattr(settings, "listen").startswith("0.0.0.0:")  # noqa: B009
    assert load_settings(GatewaySettings, flags).listen == "0.0.0.0:50051"


def test_a_file_that_only_its_owner_reads_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "mlxmesh.toml"
    path.write_text('[consul]\ntoken = "secret"\n')
    path.chmod(0o600)
    written(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_the_owner_wrote_stays(tmp_path: Path) -> None:
    path = tmp_path / "mlxmesh.toml"
    path.write_text(
        '# ours\n[mesh]\nzone = "rack1"\n[gateway]\nlisten = "10.0.0.1:9000"\n'
        '[generation]\nlisten = "127.0.0.1:7000"\n'
    )
    written(tmp_path)
    written(tmp_path)
    text = path.read_text()
    assert text.startswith("# ours\n")
    tables = tomllib.loads(text)
    assert tables["mesh"]["zone"] == "rack1"
    assert tables["gateway"]["listen"] == "10.0.0.1:9000"
    assert tables["generation"]["listen"] == "0.0.0.0:7000"


def test_an_agent_that_is_there_already_keeps_its_settings(tmp_path: Path) -> None:
    (tmp_path / "mlxmesh.toml").write_text('[consul]\nca = "/etc/consul/ca.crt"\n')
    state = HostState("a", "fd00::1", "a")
    written(tmp_path, state, "127.0.0.1:8500")
    tables = tomllib.loads((tmp_path / "mlxmesh.toml").read_text())
    assert tables["consul"] == {
        "ca": "/etc/consul/ca.crt",
        "prefix": "mlxmesh",
        "address": "127.0.0.1:8500",
    }
    assert tables["runtime"]["listen"] == "[::]:0"


def test_a_file_that_cannot_be_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlxmesh.toml").write_text("[mesh\n")
    with pytest.raises(IllegalState, match="is not TOML"):
        written(tmp_path)
    monkeypatch.setenv("MLXMESH_CONFIG", "/etc/mlxmesh.toml")
    with pytest.raises(IllegalState, match="unset MLXMESH_CONFIG"):
        written(tmp_path)


def test_the_first_host_has_the_server_and_others_join_it(tmp_path: Path) -> None:
    first = agent_settings(FIRST, tmp_path, tmp_path / "tls")
    assert (first["server"], first["bootstrap_expect"], first["retry_join"]) == (True, 1, [])
    joined = agent_settings(JOINED, tmp_path, tmp_path / "tls")
    assert (joined["server"], joined["retry_join"]) == (False, ["10.0.0.1"])
    for settings in (first, joined):
        assert settings["encrypt"] == "secret"
        assert settings["ports"]["http"] == -1
        assert settings["tls"]["https"] == {"verify_incoming": True}
        assert not settings["enable_script_checks"]


def test_ports_that_are_taken_are_named() -> None:
    taken = {"127.0.0.1:8501", "10.0.0.2:8301", "10.0.0.2:8300"}
    with pytest.raises(IllegalState, match=r"8501 and 10\.0\.0\.2:8301: taken") as caught:
        check_ports(JOINED, lambda address: address not in taken)
    assert "8300" not in str(caught.value)
    check_ports(JOINED, lambda _: True)


def test_a_host_without_consul_says_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CONSUL_BIN", raising=False)
    with pytest.raises(IllegalState, match="make consul"):
        find_consul(None)
    with pytest.raises(IllegalState, match="cannot be run"):
        find_consul(tmp_path / "consul")
    program = tmp_path / "consul"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    with pytest.raises(IllegalState, match="is not Consul"):
        find_consul(None)
    program.write_text("#!/bin/sh\necho Consul v1.12.0\n")
    assert find_consul(None) == str(program)
    assert find_consul(program) == str(program)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("10.0.0.1", ("10.0.0.1", 50052)),
        ("mac.local:7000", ("mac.local", 7000)),
        ("fd00::1", ("fd00::1", 50052)),
        ("[fd00::1]:7000", ("fd00::1", 7000)),
        ("[fd00::1]", ("fd00::1", 50052)),
    ],
)
def test_where_to_join(text: str, parsed: tuple[str, int]) -> None:
    assert parse_where(text) == parsed


@pytest.mark.parametrize("text", ["", ":50052", "a:0", "a:70000", "a:port", "[]:1"])
def test_an_illegal_place_to_join_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_where(text)
