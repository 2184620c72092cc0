"""`mlxmesh models`: the list, and how the output of a model is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from mlxmesh.model.v1 import model_pb2 as m
from tests.command_line import mlxmesh
from tests.fakes.public_services import FakeGeneration, FakeModels
from tests.fakes.scripted_generation import serving_on_a_thread


@pytest.fixture
def models() -> FakeModels:
    fake = FakeModels()
    versions = [m.ModelVersion(version=number) for number in (1, 2)]
    fake.models["qwen"] = m.Model(name="qwen", versions=versions, default_version=2)
    return fake


@pytest.fixture
def address(models: FakeModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of both services, which run on a thread."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with serving_on_a_thread(FakeGeneration(), models) as address:
        yield address


def run(address: str, *arguments: str) -> Result:
    return mlxmesh("models", *arguments, "--address", address)


def shown(address: str, *arguments: str) -> Any:
    result = run(address, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_models_are_listed_as_before(address: str) -> None:
    assert [model["name"] for model in shown(address)["models"]] == ["qwen"]
    assert "qwen@2" in run(address).stdout


def test_the_formats_of_a_model_are_shown_with_reasons(address: str) -> None:
    told = shown(address, "show", "qwen")
    assert told["tool_format"] == "hermes"
    assert told["tool_reason"] == "the chat template contains <tool_call>"
    lines = run(address, "show", "qwen").stdout.splitlines()
    assert lines[0] == "tool calls  hermes: the chat template contains <tool_call>"
    assert lines[1].startswith("reasoning   none: the chat template contains no marks")


def test_formats_are_set_for_all_versions_or_one(address: str, models: FakeModels) -> None:
    changed = shown(address, "set", "qwen", "--tool-format", "hermes")
    assert [version["tool_format"] for version in changed["versions"]] == ["hermes", "hermes"]
    result = run(address, "set", "qwen@1", "--reasoning-format", "none", "--tool-format", "auto")
    assert result.exit_code == 0, result.output
    first, second = models.models["qwen"].versions
    assert (first.tool_format, first.reasoning_format) == ("", "none")
    assert (second.tool_format, second.reasoning_format) == ("hermes", "")


def test_a_policy_is_set_in_parts_and_shown(address: str, models: FakeModels) -> None:
    changed = shown(address, "set", "qwen", "--idle", "15m", "--pin", "--price-prompt", "0.5")
    assert changed["policy"]["idle_unload_s"] == 900
    shown(address, "set", "qwen", "--no-pin", "--price-completion", "2", "--max-replicas", "3")
    policy = models.models["qwen"].policy
    assert (policy.idle_unload_s, policy.pinned, policy.max_replicas) == (900, False, 3)
    assert not policy.HasField("load_on_demand")
    price = policy.price
    assert (price.per_million_prompt_tokens, price.per_million_completion_tokens) == (0.5, 2)
    shown(address, "set", "qwen", "--no-load-on-demand", "--load-timeout", "2h")
    assert (policy.load_on_demand, policy.load_timeout_s) == (False, 7200)
    told = run(address, "show", "qwen").stdout
    assert "on demand   no; requests wait up to 7200 s for a load" in told
    assert "unload      after 900 s without a request" in told
    assert "replicas    at least 0; up to 3 by queues" in told
    assert "price       prompt 0.5, cached 0, completion 2, second 0" in told
    assert shown(address, "show", "qwen")["policy"]["idle_unload_s"] == 900


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "qwen"), "give --tool-format"),
        (("set", "qwen@1", "--pin"), "a policy is for all versions"),
        (("set", "qwen", "--load-timeout", "0"), "load_timeout_s"),
        (("set", "qwen:stable", "--tool-format", "json"), "is an alias"),
        (("set", "nothing", "--tool-format", "json"), "no model nothing"),
        (("set", "qwen", "--tool-format", "Not One"), "tool_format"),
    ],
)
def test_what_cannot_be_set_is_said(address: str, arguments: tuple[str, ...], message: str) -> None:
    result = run(address, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_time_that_is_none_is_wrong_usage(address: str) -> None:
    result = run(address, "set", "qwen", "--idle", "soon")
    assert result.exit_code == 2
    assert "--idle" in result.stderr
    assert "must be a time such as 90s" in " ".join(result.stderr.split())


def test_a_model_is_loaded_over_several_ranks(address: str, models: FakeModels) -> None:
    words = ("load", "qwen", "--group", "3", "--group-split", "pipeline", "--address", address)
    done = mlxmesh(*words)
    assert done.exit_code == 0, done.output
    assert "qwen@1 is ready (1 replica of 3 ranks)" in done.output
    asked = models.calls[-1]
    assert (asked.group_size, asked.group_split) == (3, "pipeline")
    assert json.loads(mlxmesh(*words, "--json").stdout)["version"]["group_size"] == 3
    mlxmesh("load", "qwen", "--address", address)
    assert not models.calls[-1].HasField("group_size")


@pytest.mark.parametrize("size", ["0", "17", "two"])
def test_a_group_of_an_illegal_size_is_refused(address: str, size: str) -> None:
    refused = mlxmesh("load", "qwen", "--group", size, "--address", address)
    assert refused.exit_code == 2
    assert "--group" in refused.output
