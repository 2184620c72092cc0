"""Where the gateway listens when its port is asked for, set, or taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxmesh_launcher.service_settings import STOP_MARGIN_S, ListenRequest, ServiceSettings, choose
from mlxmesh_shared.errors import IllegalState

GATEWAY, HTTP = "127.0.0.1:50051", "127.0.0.1:8051"


def settings(tmp_path: Path, toml: str = "") -> ServiceSettings:
    (tmp_path / "mlxmesh.toml").write_text(toml)
    return ServiceSettings(["--data-dir", str(tmp_path)])


def test_by_default_the_next_free_ports_are_taken_and_told(tmp_path: Path) -> None:
    requests = settings(tmp_path).listen_requests(None, None)
    taken = {GATEWAY, HTTP, "127.0.0.1:8052"}
    chosen, notes = choose(requests, lambda listen: listen not in taken)
    assert chosen == {"gateway": "127.0.0.1:50052", "HTTP": "127.0.0.1:8053"}
    assert notes == (
        "port 50051 is taken, so the gateway uses 50052",
        "port 8051 is taken, so the HTTP uses 8053",
    )
    assert choose(requests, lambda _: True) == ({"gateway": GATEWAY, "HTTP": HTTP}, ())


def test_all_ports_that_were_asked_for_and_are_taken_are_told_at_once(tmp_path: Path) -> None:
    toml = '[generation]\nlisten = "127.0.0.1:7001"\n'
    requests = settings(tmp_path, toml).listen_requests(50051, 8051)
    with pytest.raises(IllegalState) as refused:
        choose(requests, lambda _: False)
    for name in (f"{GATEWAY} (gateway)", f"{HTTP} (HTTP)", "127.0.0.1:7001 (generation)"):
        assert name in str(refused.value)


def test_what_the_settings_say_is_used_and_does_not_move(tmp_path: Path) -> None:
    toml = '[gateway]\nlisten = "[::1]:7000"\nhttp_listen = "127.0.0.1:7002"\n'
    requests = settings(tmp_path, toml).listen_requests(None, None)
    chosen, _ = choose(requests, lambda _: True)
    assert chosen == {"gateway": "[::1]:7000", "HTTP": "127.0.0.1:7002"}
    with pytest.raises(IllegalState, match=r"\[::1\]:7000 \(gateway\)"):
        choose(requests, lambda listen: listen != "[::1]:7000")


def test_a_port_that_is_given_comes_before_the_settings_which_keep_the_host(tmp_path: Path) -> None:
    toml = '[gateway]\nlisten = "[::1]:7000"\nhttp_listen = ""\n'
    chosen, _ = choose(settings(tmp_path, toml).listen_requests(7001, None), lambda _: True)
    assert chosen == {"gateway": "[::1]:7001", "HTTP": ""}
    chosen, _ = choose(settings(tmp_path, toml).listen_requests(0, 7003), lambda _: True)
    assert chosen == {"gateway": "[::1]:0", "HTTP": "127.0.0.1:7003"}


def test_a_gateway_at_a_free_port_has_its_http_at_one(tmp_path: Path) -> None:
    chosen, _ = choose(settings(tmp_path).listen_requests(0, None), lambda _: True)
    assert chosen == {"gateway": "127.0.0.1:0", "HTTP": "127.0.0.1:0"}


def test_where_every_port_nearby_is_taken_the_system_chooses() -> None:
    chosen, notes = choose([ListenRequest("gateway", GATEWAY, may_move=True)], lambda _: False)
    assert chosen == {"gateway": "127.0.0.1:0"}
    assert notes == ("port 50051 is taken, so the gateway uses a free one",)


def test_each_service_gets_its_own_time_to_drain(tmp_path: Path) -> None:
    toml = "[gateway]\ndrain_grace_s = 600\n[model]\ndrain_grace_s = 7\n"
    timeouts_s = settings(tmp_path, toml).stop_timeouts_s()
    assert timeouts_s["gateway"] == 600 + STOP_MARGIN_S
    assert timeouts_s["model"] == 7 + STOP_MARGIN_S
    assert settings(tmp_path, toml).stop_timeouts_s(5)["gateway"] == 5 + STOP_MARGIN_S


def test_jobs_and_a_worker_run_only_where_there_are_jobs(tmp_path: Path) -> None:
    assert "jobs" not in settings(tmp_path, "").used()
    (tmp_path / "jobs.db").touch()
    used = settings(tmp_path, "[worker]\nstop_grace_s = 9\n")
    assert list(used.used()) == ["runtime", "model", "generation", "jobs", "worker", "gateway"]
    assert used.stop_timeouts_s()["worker"] == 9 + STOP_MARGIN_S


def test_the_tools_service_runs_only_where_there_are_mcp_servers(tmp_path: Path) -> None:
    assert "tools" not in settings(tmp_path, "").used()
    (tmp_path / "tools.db").touch()
    used = settings(tmp_path, "[tools]\ndrain_grace_s = 9\n")
    assert list(used.used()) == ["runtime", "model", "generation", "tools", "gateway"]
    assert used.stop_timeouts_s()["tools"] == 9 + STOP_MARGIN_S


def test_the_access_service_has_a_place_only_where_it_is_used(tmp_path: Path) -> None:
    toml = '[access]\nlisten = "127.0.0.1:7005"\ndrain_grace_s = 8\n'
    loaded = settings(tmp_path, toml)
    assert not loaded.uses_access()
    assert "access" not in {request.what for request in loaded.listen_requests(None, None)}
    (tmp_path / "access.db").touch()
    assert loaded.uses_access()
    assert "access" in {request.what for request in loaded.listen_requests(None, None)}
    assert loaded.stop_timeouts_s()["access"] == 8 + STOP_MARGIN_S
    named = settings(tmp_path / "..", '[access]\ndatabase_url = "sqlite:////tmp/users.db"\n')
    assert named.uses_access()
