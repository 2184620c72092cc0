"""What `mlxmesh top` knows while its gateway goes away and comes back."""

import asyncio
from typing import Any

from mlxmesh_cli.commands.live_view import MeshState, as_json
from mlxmesh_cli.commands.overview import gateway_overview
from mlxmesh_cli.screen.output import print_view
from mlxmesh_cli.screen.tables import overview_view
from mlxmesh_client import MeshClient


async def test_what_was_known_stays_while_the_gateway_is_away(stand: Any) -> None:
    await stand.generation()
    async with stand.running_gateway() as (address, _):
        client = await stand.client(address, attempts=1)
        state = MeshState(client, address)
        await state.try_refresh()
        assert state.screen.status is not None
        known = {one.instance_id for one in state.screen.status.instances}
        assert (known, state.screen.problem) == ({"gateway-1", "generation-1"}, "")
    await state.try_refresh()
    assert "the gateway is unavailable" in state.screen.problem
    assert {one.instance_id for one in state.screen.status.instances} == known

    await stand.gateway(listen=address)
    async with asyncio.timeout(30):
        while state.screen.problem:
            await state.try_refresh()
    assert "gateway-2" in {one.instance_id for one in state.screen.status.instances}


async def test_the_last_events_are_known_and_told_as_json(stand: Any) -> None:
    address = await stand.gateway()
    client: MeshClient = await stand.client(address)
    state = MeshState(client, address)
    following = asyncio.create_task(state.follow_events())
    await stand.generation()
    async with asyncio.timeout(30):
        while not state.screen.events:
            await asyncio.sleep(0.01)
    following.cancel()
    assert state.screen.events[-1].name == "instance.registered"
    state = await as_json(MeshState(client, address))
    assert state["events"][-1]["instance_registered"]["instance_id"] == "generation-1"
    assert state["traffic"][0]["requests"] == "0"


async def test_status_of_an_address_is_what_its_gateway_reports(stand: Any) -> None:
    await stand.generation()
    await stand.models()
    address = await stand.gateway()
    state = await gateway_overview(await stand.client(address))
    rows = {row["instance_id"]: row for row in state["instances"]}
    # The fakes do not set their health.
    assert {name: row["state"] for name, row in rows.items()} == {
        "gateway-1": "serving",
        "generation-1": "not_serving",
        "model-1": "not_serving",
    }
    assert rows["gateway-1"]["address"] == address
    assert {row["pid"] for row in rows.values()} == {0}
    assert (state["models"], state["problems"]) == ([], [])
    print_view(overview_view(state))
