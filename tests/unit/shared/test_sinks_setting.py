"""How sinks of telemetry are written, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxmesh_shared.settings import GatewaySettings, SettingsError, load_settings
from mlxmesh_shared.settings.sinks import SinkSettings


def sinks(text: str) -> tuple[SinkSettings, ...]:
    return load_settings(GatewaySettings, ["--telemetry-sinks", text], env={}).telemetry_sinks


def test_by_default_prometheus_can_scrape() -> None:
    assert [sink.kind for sink in load_settings(GatewaySettings, env={}).telemetry_sinks] == [
        "prometheus"
    ]


def test_several_stand_in_one_text() -> None:
    one, two, three, four = sinks(
        "prometheus; otlp:collector:4317?signals=traces,logs&severity=warning&tls=true;"
        "file:/var/log/mesh.jsonl?max_bytes=10&services=gateway, engine ; console"
    )
    assert (one.name, two.name, three.name, four.name) == (
        "prometheus",
        "otlp:collector:4317",
        "file:/var/log/mesh.jsonl",
        "console",
    )
    assert (two.signals, two.severity, two.tls) == (("traces", "logs"), "warning", True)
    assert (three.max_bytes, three.services) == (10, ("gateway", "engine"))
    assert sinks("") == ()


def test_each_may_be_a_table_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mlxmesh.toml").write_text(
        '[[gateway.telemetry_sinks]]\nkind = "otlp"\ntarget = "c:1"\nsignals = ["logs"]\n'
        '[[gateway.telemetry_sinks]]\nkind = "console"\n'
    )
    flags = ["--data-dir", str(tmp_path)]
    found = load_settings(GatewaySettings, flags, env={}).telemetry_sinks
    assert [(sink.name, sink.signals) for sink in found] == [
        ("otlp:c:1", ("logs",)),
        ("console", ("traces", "metrics", "logs")),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("zipkin:somewhere", "telemetry_sinks.0.kind: Input should be 'prometheus', 'otlp'"),
        ("prometheus; otlp:nowhere", "telemetry_sinks.1: an otlp sink needs .* host:port"),
        ("file", "a file sink needs a path"),
        ("console:x", "a console sink has no target"),
        ("prometheus?signals=traces", "accepts metrics only"),
        ("console?signals=tracks", "telemetry_sinks.0.signals.0"),
        ("console?services=motor", "telemetry_sinks.0.services.0"),
        ("console?severity=loud", "telemetry_sinks.0.severity"),
        ("console?a=b", "telemetry_sinks.0.a"),
        ("console?a", r"write options as \?name=value"),
        ("console; console", "two sinks console"),
        ("otlp:c:1?ca=/ca.crt", "add tls=true"),
        ("otlp:c:1?tls=true&cert=/c.crt", "need each other"),
        ("console?queue_bytes=0", "telemetry_sinks.0.queue_bytes"),
    ],
)
def test_a_mistake_is_named_with_where_it_stands(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        sinks(text)


def test_http_listens_by_the_rules_of_grpc() -> None:
    def http(*flags: str) -> str:
        return load_settings(GatewaySettings, flags, env={}).http_listen

    assert http() == "127.0.0.1:8051"
    assert http("--listen", "127.0.0.1:0") == "127.0.0.1:0"
    assert http("--http-listen", "127.0.0.1:9", "--listen", "127.0.0.1:0") == "127.0.0.1:9"
    assert http("--http-listen", "") == ""
    assert http("--http-listen", "0.0.0.0:1", "--tls-dir", "/tls") == "0.0.0.0:1"
    with pytest.raises(SettingsError, match="http_listen: refusing to listen"):
        http("--http-listen", "0.0.0.0:1")
    with pytest.raises(SettingsError, match="must be host:port"):
        http("--http-listen", "here")
