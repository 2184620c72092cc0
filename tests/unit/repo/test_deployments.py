"""What is deployed by containers and schedulers starts: settings exist, and drains have time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxmesh_shared.settings import SETTINGS, load_settings

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
KUBERNETES = DEPLOY / "kubernetes" / "base"
NOMAD = ("mesh", "mesh-containers")
SERVICES = {"gateway", "generation", "model", "access", "runtime", "jobs", "worker", "tools"}
OF_IMAGE = {"MLXMESH_DATA_DIR": "/var/lib/mlxmesh", "MLXMESH_GATEWAY_HTTP_LISTEN": "0.0.0.0:8051"}
STOP_MARGIN_S = 5


@dataclass(frozen=True)
class Deployed:
    """One service as a file starts it."""

    where: str
    service: str
    environment: Mapping[str, str]
    grace_s: float
    """What the scheduler allows from SIGTERM on."""


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def _service_of(command: list[str]) -> str:
    python, option, module = command
    assert (python, option) == ("python", "-m")
    return module.removeprefix("mlxmesh_")


def _in_compose() -> Iterator[Deployed]:
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        if service["command"][:2] == ["python", "-m"]:
            yield Deployed(
                "compose",
                _service_of(service["command"]),
                service["environment"],
                _seconds(service["stop_grace_period"]),
            )


def _documents(*names: str) -> Iterator[dict[str, Any]]:
    for name in names:
        yield from yaml.safe_load_all((KUBERNETES / name).read_text())


def _in_kubernetes() -> Iterator[Deployed]:
    [settings] = _documents("settings.yaml")
    [common] = _documents("every-process.yaml")
    [pause_s] = common["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"][
        "command"
    ][1:]
    for name in SERVICES:
        [workload] = _documents(f"{name}.yaml")
        pod = workload["spec"]["template"]["spec"]
        [container] = pod["containers"]
        own = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        yield Deployed(
            "kubernetes",
            _service_of(container["args"]),
            settings["data"] | {"MLXMESH_ADVERTISE_HOST": "10.1.2.3"} | own,
            pod["terminationGracePeriodSeconds"] - float(pause_s),
        )


def _in_nomad() -> Iterator[Deployed]:
    """The shape of these files is known; Nomad itself reads them nowhere in the tests."""
    for name in NOMAD:
        text = (DEPLOY / "nomad" / f"{name}.nomad.hcl").read_text()
        variables = re.findall(r'^ +"?(MLXMESH_[^" ]+)"? += (.+)$', text, re.MULTILINE)
        assert variables
        for service, grace in re.findall(r"^    (\w+) += {.*kill_timeout = \"(\d+s)\"", text, re.M):
            environment = dict(_nomad_value(service, *variable) for variable in variables)
            yield Deployed(f"nomad {name}", service, environment, _seconds(grace))


def _nomad_value(service: str, name: str, expression: str) -> tuple[str, str]:
    """A variable as a client host sets it, with TLS and without a hand-over."""
    name = name.replace("${upper(group.key)}", service.upper())
    expression = expression.removeprefix("contains(local.hands_over, group.key) ? ")
    expression = re.sub(r'^"\${attr\.[^"]+" : ', "", expression)
    known = {
        "var.data_dir": "/var/lib/mlxmesh",
        "var.consul_address": "127.0.0.1:8500",
        'var.tls ? "false" : "true"': "false",
        'group.key == "gateway" ? "${NOMAD_ADDR_http}" : "auto"': "auto",
        'var.gateway_hand_over ? "true" : "false"': "false",
    }
    value = known.get(expression) or expression.strip('"').split('"')[0]
    for placeholder, instead in (("IP_grpc", "10.1.2.3"), ("PORT_grpc", "20001")):
        value = value.replace(f"${{NOMAD_{placeholder}}}", instead)
    assert "$" not in value, expression
    return name, value


# In one order: workers of a parallel run have to agree on it.
ALL = sorted(
    [*_in_compose(), *_in_kubernetes(), *_in_nomad()], key=lambda each: (each.where, each.service)
)


@pytest.mark.parametrize("where", ["compose", "kubernetes", *(f"nomad {name}" for name in NOMAD)])
def test_every_service_is_there_once(where: str):
    assert sorted(each.service for each in ALL if each.where == where) == sorted(SERVICES)


@pytest.mark.parametrize("deployed", ALL, ids=lambda each: f"{each.where}-{each.service}")
def test_a_service_starts_with_its_settings(deployed: Deployed):
    environment = OF_IMAGE | {"MLXMESH_TLS_DIR": "/etc/mlxmesh/tls"} | dict(deployed.environment)
    settings = load_settings(SETTINGS[deployed.service], [], env=environment)
    assert settings.registry == "consul"
    assert settings.advertise_host
    assert not settings.insecure_listen
    own = settings.model_dump()
    assert own["listen"] == environment[f"MLXMESH_{deployed.service.upper()}_LISTEN"]
    # Half a second for callers to choose another instance, then running calls.
    needed_s = sum(own.get(name, 0) for name in ("drain_grace_s", "stop_grace_s", "hand_over_s"))
    needed_s += own.get("max_connection_age_s", 0)
    assert deployed.grace_s >= needed_s + STOP_MARGIN_S


def test_kubernetes_and_compose_run_the_same_agent():
    agents = [folder / "consul.hcl" for folder in (COMPOSE.parent, KUBERNETES)]
    assert len({agent.read_text() for agent in agents}) == 1


def test_each_workload_gets_what_all_have():
    [kustomization] = _documents("kustomization.yaml")
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    patches = {patch["path"] for patch in kustomization["patches"]}
    assert files == {*kustomization["resources"]} | patches
    stateful = {
        workload["metadata"]["name"]
        for workload in _documents(*(f"{name}.yaml" for name in SERVICES))
        if workload["kind"] == "StatefulSet"
    }
    [target] = [
        patch["target"]["name"]
        for patch in kustomization["patches"]
        if patch["target"]["kind"] == "StatefulSet"
    ]
    assert {*target.split("|")} == stateful


def test_several_instances_have_a_disruption_budget():
    budgets = {budget["metadata"]["name"] for budget in _documents("disruptions.yaml")}
    workloads = _documents(*(f"{name}.yaml" for name in SERVICES))
    several = {each["metadata"]["name"] for each in workloads if each["spec"]["replicas"] > 1}
    assert budgets == several
