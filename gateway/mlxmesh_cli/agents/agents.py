"""The agents: where their configuration is, and what they need to use the mesh.

Source: the agents' own documentation, of the versions that docs/agents.md names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxmesh_cli.agents.change import Setting
from mlxmesh_cli.agents.formats import Format
from mlxmesh_cli.agents.jsonc import Jsonc

PROVIDER = "mlxmesh"
NO_KEY = "any"
"""What agents send to a mesh without users; they insist on something."""


@dataclass(frozen=True)
class MeshAddress:
    """The mesh, as an agent reaches it."""

    url: str
    """Of the gateway's HTTP, without a path."""
    model: str
    key: str = NO_KEY
    ca: Path | None = None
    """The authority that issued the gateway's certificate; None without TLS."""
    context_tokens: int = 32768


@dataclass(frozen=True)
class Agent:
    """One agent."""

    name: str
    file: Callable[[Mapping[str, str], Path], Path]
    """Its configuration, by the environment and the home directory."""
    form: Callable[[], Format]
    settings: Callable[[MeshAddress], Sequence[Setting]]
    notes: Callable[[MeshAddress], Sequence[str]]
    """What else is to be done."""
    keeps_key: bool = True
    """Whether the key is in its configuration."""


def _toml() -> Format:
    from mlxmesh_cli.agents.toml import Toml

    return Toml()


def _yaml() -> Format:
    from mlxmesh_cli.agents.yaml_lists import YamlLists

    return YamlLists()


def _nested(prefix: tuple[str, ...], values: Mapping[str, Any]) -> list[Setting]:
    return [Setting((*prefix, name), value) for name, value in values.items()]


def _claude_code(mesh: MeshAddress) -> Sequence[Setting]:
    values = {
        "ANTHROPIC_BASE_URL": mesh.url,
        "ANTHROPIC_AUTH_TOKEN": mesh.key,
        "ANTHROPIC_MODEL": mesh.model,
        # The names that it uses for subagents and background work.
        "ANTHROPIC_DEFAULT_OPUS_MODEL": mesh.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": mesh.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": mesh.model,
    }
    if mesh.ca is not None:
        values["NODE_EXTRA_CA_CERTS"] = str(mesh.ca)
    return _nested(("env",), values)


def _codex(mesh: MeshAddress) -> Sequence[Setting]:
    provider: dict[str, Any] = {
        "name": PROVIDER,
        "base_url": f"{mesh.url}/v1",
        "wire_api": "responses",
    }
    if mesh.key != NO_KEY:
        provider["experimental_bearer_token"] = mesh.key
    return [
        Setting(("model",), mesh.model),
        Setting(("model_provider",), PROVIDER),
        # Of the kinds of tools that it sends, the mesh has functions only.
        Setting(("web_search",), "disabled"),
        Setting(("agents", "enabled"), False),
        *_nested(("model_providers", PROVIDER), provider),
    ]


def _opencode(mesh: MeshAddress) -> Sequence[Setting]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": PROVIDER,
        "options": {"baseURL": f"{mesh.url}/v1", "apiKey": mesh.key},
        "models": {mesh.model: {"name": mesh.model}},
    }
    reference = f"{PROVIDER}/{mesh.model}"
    return [
        Setting(("$schema",), "https://opencode.ai/config.json", is_default=True),
        Setting(("provider", PROVIDER), provider),
        Setting(("model",), reference),
        Setting(("small_model",), reference),
    ]


def _continue(mesh: MeshAddress) -> Sequence[Setting]:
    model: dict[str, Any] = {
        "name": PROVIDER,
        "provider": "openai",
        "model": mesh.model,
        "apiBase": f"{mesh.url}/v1",
        "apiKey": mesh.key,
        "roles": ["chat", "edit", "apply"],
    }
    if mesh.ca is not None:
        model["requestOptions"] = {"caBundlePath": str(mesh.ca)}
    return [
        Setting(("name",), "My configuration", is_default=True),
        Setting(("version",), "1.0.0", is_default=True),
        Setting(("schema",), "v1", is_default=True),
        Setting(("models", PROVIDER), model),
    ]


def _zed(mesh: MeshAddress) -> Sequence[Setting]:
    model = {
        "name": mesh.model,
        "display_name": f"{mesh.model} (mlxmesh)",
        "max_tokens": mesh.context_tokens,
        "capabilities": {
            "tools": True,
            "images": False,
            "parallel_tool_calls": False,
            "prompt_cache_key": False,
        },
    }
    provider = {"api_url": f"{mesh.url}/v1", "available_models": [model]}
    default = {"provider": PROVIDER, "model": mesh.model}
    return [
        Setting(("language_models", "openai_compatible", PROVIDER), provider),
        Setting(("agent", "default_model"), default),
    ]


def _no_notes(_: MeshAddress) -> Sequence[str]:
    return ()


def _zed_notes(mesh: MeshAddress) -> Sequence[str]:
    return (
        f"Zed does not read keys from its settings: start it with MLXMESH_API_KEY={mesh.key}, or"
        " enter the key in its Agent settings, under LLM Providers",
    )


def _node_notes(mesh: MeshAddress) -> Sequence[str]:
    if mesh.ca is None:
        return ()
    return (f"the mesh has TLS: start it with NODE_EXTRA_CA_CERTS={mesh.ca}",)


def _codex_notes(mesh: MeshAddress) -> Sequence[str]:
    return () if mesh.ca is None else (f"the mesh has TLS: start it with SSL_CERT_FILE={mesh.ca}",)


def _in_config_home(*names: str) -> Callable[[Mapping[str, str], Path], Path]:
    def place(environ: Mapping[str, str], home: Path) -> Path:
        given = environ.get("XDG_CONFIG_HOME")
        return (Path(given) if given else home / ".config").joinpath(*names)

    return place


def _in_home(variable: str, folder: str, name: str) -> Callable[[Mapping[str, str], Path], Path]:
    def place(environ: Mapping[str, str], home: Path) -> Path:
        given = environ.get(variable)
        return (Path(given) if given else home / folder) / name

    return place


AGENTS: Mapping[str, Agent] = {
    agent.name: agent
    for agent in (
        Agent(
            "claude-code",
            _in_home("CLAUDE_CONFIG_DIR", ".claude", "settings.json"),
            Jsonc,
            _claude_code,
            _no_notes,
        ),
        Agent(
            "codex", _in_home("CODEX_HOME", ".codex", "config.toml"), _toml, _codex, _codex_notes
        ),
        Agent(
            "opencode",
            _in_config_home("opencode", "opencode.json"),
            Jsonc,
            _opencode,
            _node_notes,
        ),
        Agent(
            "continue",
            _in_home("CONTINUE_GLOBAL_DIR", ".continue", "config.yaml"),
            _yaml,
            _continue,
            _no_notes,
        ),
        Agent(
            "zed",
            _in_config_home("zed", "settings.json"),
            Jsonc,
            _zed,
            _zed_notes,
            keeps_key=False,
        ),
    )
}
