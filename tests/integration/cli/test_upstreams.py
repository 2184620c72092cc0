"""`mlxmesh models add-upstream`, and how an upstream is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh.model.v1 import upstream_pb2 as up
from mlxmesh_cli.commands.upstreams import CAPABILITIES, names_of
from tests.command_line import mlxmesh
from tests.fakes.public_services import FakeGeneration, FakeModels
from tests.fakes.scripted_generation import serving_on_a_thread

ADD = ("add-upstream", "far", "--url", "https://host/v1", "--model", "gpt-x")


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
def address(models: FakeModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with serving_on_a_thread(FakeGeneration(), models) as address:
        yield address


def run(address: str, *arguments: str) -> Result:
    return mlxmesh("models", *arguments, "--address", address)


def test_every_capability_of_the_contract_can_be_given() -> None:
    every = up.Upstream(capabilities=[each for each in up.UpstreamCapability.values() if each])
    assert names_of(every) == list(CAPABILITIES)


def test_an_upstream_is_added(address: str, models: FakeModels) -> None:
    result = run(
        address,
        *ADD,
        *("--key-env", "FAR_KEY", "--takes", "chat", "--takes", "logprobs"),
        *("--context-tokens", "4096", "--max-concurrent", "7"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == "far@1 is registered; ready\n"
    assert models.models["far"].versions[0].upstream == up.Upstream(
        base_url="https://host/v1",
        model_id="gpt-x",
        key="env:FAR_KEY",
        capabilities=[up.UPSTREAM_CAPABILITY_CHAT, up.UPSTREAM_CAPABILITY_LOGPROBS],
        context_tokens=4096,
        max_concurrent=7,
    )


def test_a_key_may_be_in_a_file(address: str, models: FakeModels, tmp_path: Path) -> None:
    result = run(address, *ADD, "--key-file", str(tmp_path / "key"), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["version"]["state"] == "ready"
    assert models.models["far"].versions[0].upstream.key == f"file:{tmp_path}/key"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--takes", "magic"), "--takes magic: it must be one of chat"),
        (("--key-env", "A", "--key-file", "b"), "not both"),
        (("--max-concurrent", "0"), "max-concurrent"),
    ],
)
def test_what_is_wrong_is_told(address: str, more: tuple[str, ...], told: str) -> None:
    result = run(address, *ADD, *more)
    assert result.exit_code != 0
    assert told in result.output


def test_an_upstream_is_shown_with_its_state_and_reason(address: str, models: FakeModels) -> None:
    run(address, *ADD, "--key-env", "FAR_KEY")
    version = models.models["far"].versions[0]
    version.state = m.VERSION_STATE_FAILED
    version.failure.CopyFrom(Failure(code=9, reason="UPSTREAM_REFUSED", message="no such key"))
    listed = run(address).stdout
    assert "upstream" in listed
    assert "failed" in listed
    assert "no such key" in listed
    lines = run(address, "show", "far").stdout.splitlines()
    assert lines[0] == "upstream    https://host/v1, model gpt-x"
    assert lines[1] == "key         env:FAR_KEY"
    assert "state       failed: no such key" in lines
    told = json.loads(run(address, "show", "far", "--json").stdout)
    assert (told["kind"], told["upstream"]["key"]) == ("upstream", "env:FAR_KEY")


def test_one_that_is_not_healthy_is_added_with_the_reason(address: str, models: FakeModels) -> None:
    models.upstream_failure = Failure(code=9, reason="UPSTREAM_REFUSED", message="no such key")
    result = run(address, *ADD)
    assert result.exit_code == 0
    assert "far@1 is registered and not healthy: no such key" in result.stdout
