"""Each agent's configuration: from nothing, beside foreign settings, twice, undone, after edits."""

from __future__ import annotations

import json
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxmesh_cli.agents.agents import AGENTS, Agent, MeshAddress
from mlxmesh_cli.agents.change import apply, revert
from mlxmesh_cli.agents.connection import Connection
from mlxmesh_cli.agents.records import RecordFile
from mlxmesh_shared.errors import IllegalState

MESH = MeshAddress("http://127.0.0.1:8051", "qwen", key="mm_secret")
OTHER = MeshAddress("http://127.0.0.1:9051", "llama:stable", key="mm_other")

JSONC = """// mine
{
  "theme": "dark", // not light
  "env": {"FOO": "1"},
  "provider": {
    "other": {"npm": "x"} /* kept */
  },
  "agent": { "default_model": {"provider": "zed.dev", "model": "m"} },
  "model": "other/m"
}
"""
TOML = """# mine
model = "gpt" # the old one

[model_providers.other]
name = "Other"

[mcp_servers.docs]
command = "docs"
"""
YAML = """# mine
name: Local
models:
  - name: Claude # kept
    provider: anthropic
"""
FOREIGN = {"claude-code": JSONC, "codex": TOML, "opencode": JSONC, "continue": YAML, "zed": JSONC}
READ: dict[str, Callable[[str], Any]] = {
    "codex": tomllib.loads,
    "continue": yaml.safe_load,
}
# An edit by the owner that has nothing to do with the mesh.
EDITS = {
    "codex": ('command = "docs"', 'command = "other"'),
    "continue": ("provider: anthropic", "provider: ollama"),
}
NAMES = list(AGENTS)


class Rig:
    """One agent in a home directory of the test."""

    def __init__(self, name: str, home: Path) -> None:
        self.agent: Agent = AGENTS[name]
        self.file = self.agent.file({}, home)
        self.records = RecordFile(name)
        self.connection = Connection(self.agent.form(), self.file, self.records)

    def connect(self, mesh: MeshAddress = MESH) -> str:
        edit = self.connection.planned(self.agent.settings(mesh))
        if edit.changes:
            self.connection.connect(edit)
        return self.file.read_text()

    def undo(self) -> None:
        self.connection.undo(self.connection.planned_undo())

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))


@pytest.fixture(params=NAMES)
def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Rig(request.param, tmp_path / "home")


def data(name: str, text: str) -> Any:
    if name in READ:
        return READ[name](text)
    return AGENTS[name].form().read(text)


def test_from_nothing_and_back(rig: Rig) -> None:
    text = rig.connect()
    name = rig.agent.name
    assert "http://127.0.0.1:8051" in text
    assert "qwen" in text
    assert ("mm_secret" in text) is rig.agent.keeps_key
    assert stat.S_IMODE(rig.file.stat().st_mode) == 0o600
    if name in ("claude-code", "opencode", "zed"):
        json.loads(text)  # strictly
    rig.undo()
    assert not rig.file.exists()
    assert not rig.records.path.exists()


def test_foreign_settings_and_comments_stay(rig: Rig) -> None:
    foreign = FOREIGN[rig.agent.name]
    rig.file.parent.mkdir(parents=True)
    rig.file.write_text(foreign)
    rig.file.chmod(0o640)
    text = rig.connect()
    for comment in ("mine", "kept", "not light", "the old one"):
        assert (comment in text) is (comment in foreign), comment
    assert stat.S_IMODE(rig.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(rig.records.path.stat().st_mode) == 0o600
    rig.undo()
    assert rig.file.read_text() == foreign
    assert stat.S_IMODE(rig.file.stat().st_mode) == 0o640


def test_twice_changes_nothing(rig: Rig) -> None:
    first = rig.connect()
    assert not rig.connection.planned(rig.agent.settings(MESH)).changes
    assert rig.connect() == first


def test_another_model_replaces_the_first_and_undo_goes_back_to_the_start(rig: Rig) -> None:
    foreign = FOREIGN[rig.agent.name]
    rig.file.parent.mkdir(parents=True)
    rig.file.write_text(foreign)
    rig.connect()
    text = rig.connect(OTHER)
    assert "8051" not in text
    assert "llama:stable" in text
    rig.undo()
    assert rig.file.read_text() == foreign


def test_undo_after_another_edit_takes_out_only_ours(rig: Rig) -> None:
    name = rig.agent.name
    foreign = FOREIGN[name]
    edit = EDITS.get(name, ('"dark"', '"light"'))
    rig.file.parent.mkdir(parents=True)
    rig.file.write_text(foreign)
    rig.connect()
    rig.edit(*edit)
    rig.undo()
    text = rig.file.read_text()
    assert data(name, text) == data(name, foreign.replace(*edit))
    assert "mine" in text


def test_a_second_connection_after_another_edit_keeps_it(rig: Rig) -> None:
    name = rig.agent.name
    foreign = FOREIGN[name]
    edit = EDITS.get(name, ('"dark"', '"light"'))
    rig.file.parent.mkdir(parents=True)
    rig.file.write_text(foreign)
    rig.connect()
    rig.edit(*edit)
    rig.connect(OTHER)
    rig.undo()
    assert data(name, rig.file.read_text()) == data(name, foreign.replace(*edit))


def test_undo_after_an_edit_of_ours_is_refused_and_says_where_the_backup_is(rig: Rig) -> None:
    rig.file.parent.mkdir(parents=True)
    rig.file.write_text(FOREIGN[rig.agent.name])
    rig.connect()
    rig.edit("http://127.0.0.1:8051", "http://192.0.2.1:8051")
    text = rig.file.read_text()
    with pytest.raises(IllegalState, match="edited since") as refused:
        rig.undo()
    assert str(rig.records.path) in str(refused.value)
    assert rig.file.read_text() == text
    assert rig.records.path.exists()


def test_a_file_that_is_gone_needs_no_undo(rig: Rig) -> None:
    rig.connect()
    rig.file.unlink()
    edit = rig.connection.planned_undo()
    assert not edit.changes
    rig.connection.undo(edit)
    with pytest.raises(IllegalState, match="nothing to undo"):
        rig.connection.planned_undo()


def test_a_broken_file_is_left_alone(rig: Rig) -> None:
    rig.file.parent.mkdir(parents=True)
    rig.file.write_text("{ [ = :")
    with pytest.raises(IllegalState, match="cannot be edited"):
        rig.connect()
    assert rig.file.read_text() == "{ [ = :"
    rig.file.write_bytes(b"\xff\xfe")
    with pytest.raises(IllegalState, match="UTF-8"):
        rig.connect()


def test_a_linked_file_stays_a_link(rig: Rig, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles"
    target.write_text(FOREIGN[rig.agent.name])
    rig.file.parent.mkdir(parents=True)
    rig.file.symlink_to(target)
    rig.connect()
    assert rig.file.is_symlink()
    assert "qwen" in target.read_text()
    rig.undo()
    assert target.read_text() == FOREIGN[rig.agent.name]


KEYS = st.sampled_from(
    ["env", "model", "provider", "model_providers", "mlxmesh", "agent", "x", "language_models"]
)
FOREIGN_DATA = st.recursive(
    st.integers(-9, 9) | st.text(alphabet="ab#/\"'", max_size=4) | st.booleans(),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


@given(st.sampled_from(["claude-code", "opencode", "zed"]), FOREIGN_DATA)
@settings(suppress_health_check=[HealthCheck.filter_too_much])
def test_any_json_gets_the_settings_and_loses_them(name: str, foreign: Any) -> None:
    agent = AGENTS[name]
    form, text = agent.form(), json.dumps(foreign, indent=2)
    try:
        changed, applied = apply(form, text, agent.settings(MESH))
    except ValueError:
        return  # another form is in the way; nothing was written
    found = form.read(changed)
    for setting in agent.settings(MESH):
        value = found
        for key in setting.path:
            value = value[key]
        assert value == setting.value or setting.is_default
    assert form.read(revert(form, changed, applied)) == foreign


def test_the_agents_files_follow_their_variables(tmp_path: Path) -> None:
    home = tmp_path
    environ = {
        "CLAUDE_CONFIG_DIR": "/a",
        "CODEX_HOME": "/b",
        "XDG_CONFIG_HOME": "/c",
        "CONTINUE_GLOBAL_DIR": "/d",
    }
    assert [str(agent.file(environ, home)) for agent in AGENTS.values()] == [
        "/a/settings.json",
        "/b/config.toml",
        "/c/opencode/opencode.json",
        "/d/config.yaml",
        "/c/zed/settings.json",
    ]
    assert AGENTS["codex"].file({}, home) == home / ".codex" / "config.toml"
