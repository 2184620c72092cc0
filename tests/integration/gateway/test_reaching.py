"""Whether the mesh is up is asked only where no gateway answers."""

from __future__ import annotations

from typing import Any

import pytest

from mlxmesh_cli.mesh.reaching import GatewayUnreachable, gateway_errors
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import HubUnavailable, MeshError, NoRuntime, ServiceUnavailable


@pytest.mark.parametrize(
    "error",
    [
        HubUnavailable("the hub cannot be reached"),
        NoRuntime("no runtime is up"),
        ServiceUnavailable("the checksum of model.safetensors is wrong"),
    ],
)
async def test_what_a_gateway_says_stays_as_it_is(stand: Any, error: MeshError) -> None:
    models = await stand.models()
    models.failures.append(error)
    address = await stand.gateway()
    client = await stand.client(address, attempts=1)
    with pytest.raises(type(error), match=str(error)) as caught:
        async with gateway_errors(address, None):
            await anext(client.pull_model("owner/name"))
    assert not isinstance(caught.value, GatewayUnreachable)


async def test_a_gateway_without_its_services_is_no_question_either(stand: Any) -> None:
    address = await stand.gateway()
    client = await stand.client(address, attempts=1)
    with pytest.raises(ServiceUnavailable) as caught:
        async with gateway_errors(address, None):
            await client.list_models()
    assert not isinstance(caught.value, GatewayUnreachable)


async def test_an_address_where_nobody_listens_is_one() -> None:
    with pytest.raises(GatewayUnreachable, match="check the mesh with `mlxmesh status`"):
        async with (
            gateway_errors("127.0.0.1:1", None),
            MeshClient("127.0.0.1:1", attempts=1) as client,
        ):
            await client.list_models()
