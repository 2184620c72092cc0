"""tritonclient, unmodified, over gRPC and HTTP; its contract is ours where both have a field."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from mlxmesh.inference.v2 import inference_pb2
from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]
PYTHON = Path.home() / ".cache/mlxmesh/venvs/tritonclient/bin/python"
SESSION = Path(__file__).with_name("tritonclient_session.py")
# Of KServe's contract; Triton's has no such field.
OF_KSERVE = {"ModelMetadataResponse.properties", "ModelMetadataResponse.PropertiesEntry"}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    running = start_mesh(tmp_path_factory.mktemp("mesh"), "--http-port", "0")
    yield running
    stop_mesh(running)


@pytest.fixture(scope="module")
def session(mesh: RunningMesh) -> dict[str, Any]:
    """What the client was told."""
    (row,) = [row for row in mesh.status()["instances"] if row["service"] == "gateway"]
    result = subprocess.run(
        [PYTHON, SESSION, mesh.address, row["http"]],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def text(mesh: RunningMesh) -> str:
    """The same generation by the mesh's own contract."""

    async def complete() -> str:
        async with MeshClient(mesh.address) as client:
            answer = await client.complete(
                "pocket", prompt="Once upon", max_tokens=16, temperature=0.8, seed=5
            )
        return answer.text

    return asyncio.run(complete())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_both_clients_can_ask(session: dict[str, Any], protocol: str, text: str) -> None:
    told = session[protocol]
    error, unknown = told.pop("error"), told.pop("unknown")
    shared = {
        "live": True,
        "ready": True,
        "model": True,
        "version": True,
        "nobody": False,
        "server": "mlxmesh",
        "inputs": 7,
        "text": "Once upon" + text,
        "id": "r-7",
    }
    assert {name: told[name] for name in shared} == shared
    assert 1 <= told["tokens"] <= 16
    assert error.startswith("sampling_parameters.temperature")
    assert "nobody" in unknown


def test_streams(session: dict[str, Any], text: str) -> None:
    streams = session["grpc"]["streams"]
    assert (streams["a"], streams["b"]) == (text, text)
    assert "nobody" in streams["error"]
    assert session["grpc"]["cancelled"]


def test_an_output_in_json(session: dict[str, Any]) -> None:
    assert session["http"]["plain"] == session["http"]["text"]


def test_names_and_numbers_are_those_of_the_published_contract(session: dict[str, Any]) -> None:
    published = FileDescriptorProto.FromString(bytes.fromhex(session["contract"]))
    ours = FileDescriptorProto.FromString(inference_pb2.DESCRIPTOR.serialized_pb)
    assert ours.package == published.package
    (service,), (their_service,) = ours.service, published.service
    assert service.name == their_service.name
    their_methods = {method.name: method for method in their_service.method}
    for method in service.method:
        theirs = their_methods[method.name]
        assert (method.input_type, method.output_type) == (theirs.input_type, theirs.output_type)
        assert method.server_streaming == theirs.server_streaming
        assert method.client_streaming == theirs.client_streaming
    known = dict(_fields("", published.message_type))
    fields = dict(_fields("", ours.message_type))
    assert len(fields) > 60
    assert {name for name in fields if not name.startswith(tuple(OF_KSERVE))} <= set(known)
    assert {name: each for name, each in fields.items() if known.get(name, each) != each} == {}


def _fields(start: str, messages: Any) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Each field by its path, with all that the wire depends on."""
    message: DescriptorProto
    field: FieldDescriptorProto
    for message in messages:
        path = f"{start}{message.name}."
        for field in message.field:
            wire = (field.number, field.type, field.label, field.type_name, field.json_name)
            yield f"{path}{field.name}", wire
        yield from _fields(path, message.nested_type)
