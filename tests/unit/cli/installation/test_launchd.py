"""Property lists: what `plutil -lint` would accept, and what launchd.plist(5) knows."""

from __future__ import annotations

import plistlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mlxmesh_cli.installation.launchd import Launchd
from mlxmesh_cli.installation.service import Scope, Service

AGENT = Service(
    "all",
    Scope.USER,
    Path("/Users/ada/venv/bin/python"),
    Path("/Users/ada/.mlxmesh"),
    environment={"HF_HOME": "/Volumes/models & more"},
)
DAEMON = replace(AGENT, scope=Scope.SYSTEM, account="mesh", what="gateway", environment={})

TEXT, NUMBER, TRUTH = str, int, bool
# Of launchd.plist(5): the keys that may appear here, with their types.
KEYS: dict[str, Any] = {
    "Label": TEXT,
    "UserName": TEXT,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "WorkingDirectory": TEXT,
    "RunAtLoad": TRUTH,
    "KeepAlive": dict,
    "ThrottleInterval": NUMBER,
    "ExitTimeOut": NUMBER,
    "StandardOutPath": TEXT,
    "StandardErrorPath": TEXT,
    "ProcessType": TEXT,
    "Umask": NUMBER,
    "SoftResourceLimits": dict,
}
NESTED: dict[str, dict[str, Any]] = {
    "KeepAlive": {"SuccessfulExit": TRUTH},
    "SoftResourceLimits": {"NumberOfFiles": NUMBER},
}


def rendered(service: Service) -> bytes:
    return Launchd(service.scope, Path("/Users/ada"), 501).render(service)


@pytest.mark.parametrize("service", [AGENT, DAEMON])
def test_every_key_is_launchds_with_its_type(service: Service) -> None:
    content = plistlib.loads(rendered(service))
    for key, value in content.items():
        assert type(value) is KEYS[key], key
    for key, inner in NESTED.items():
        assert {name: type(value) for name, value in content[key].items()} == inner
    for word in (*content["ProgramArguments"], *content.get("EnvironmentVariables", {}).values()):
        assert type(word) is str
    assert content["ProcessType"] in ("Background", "Standard", "Adaptive", "Interactive")
    # Paths are not expanded: neither ~ nor variables.
    for key in ("WorkingDirectory", "StandardOutPath", "StandardErrorPath"):
        assert Path(content[key]).is_absolute()
    assert Path(content["ProgramArguments"][0]).is_absolute()
    # A label is the file's name, and unique.
    assert Launchd(service.scope, Path("/h"), 1).path(service.name).stem == content["Label"]


@pytest.mark.parametrize("service", [AGENT, DAEMON])
def test_it_is_a_property_list_of_apples_kind(service: Service) -> None:
    text = rendered(service)
    assert text.startswith(b"<?xml version=")
    assert b"-//Apple//DTD PLIST 1.0//EN" in text
    root = ElementTree.fromstring(text)
    assert root.tag == "plist"
    for found in root.iter("dict"):
        tags = [child.tag for child in found]
        assert tags[::2] == ["key"] * (len(tags) // 2)
        keys = [child.text for child in found][::2]
        assert len(keys) == len(set(keys))


def test_it_restarts_after_a_crash_but_not_after_a_drain() -> None:
    content = plistlib.loads(rendered(replace(AGENT, stop_timeout_s=215.2)))
    assert content["KeepAlive"] == {"SuccessfulExit": False}
    assert content["ThrottleInterval"] == 10
    assert content["ExitTimeOut"] == 215
    assert content["Umask"] == 0o077
    assert content["EnvironmentVariables"] == {"HF_HOME": "/Volumes/models & more"}
    assert content["StandardErrorPath"] == "/Users/ada/.mlxmesh/logs/launcher.log"


def test_agents_and_daemons_have_their_places() -> None:
    agent = Launchd(Scope.USER, Path("/Users/ada"), 501)
    daemon = Launchd(Scope.SYSTEM, Path("/Users/ada"), 0)
    assert str(agent.path("mlxmesh")).startswith("/Users/ada/Library/LaunchAgents/")
    assert str(daemon.path("mlxmesh")) == "/Library/LaunchDaemons/org.mlxmesh.mlxmesh.plist"
    assert daemon.start("mlxmesh-gateway")[1][:3] == ("launchctl", "bootstrap", "system")
    assert plistlib.loads(rendered(DAEMON))["UserName"] == "mesh"
    assert "UserName" not in plistlib.loads(rendered(AGENT))
