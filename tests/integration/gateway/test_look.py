"""What `mlxmesh top` knows while its gateway goes away and comes back."""

import asyncio
from typing import Any

from mlxmesh_cli.commands.live_view import Look, as_json
from mlxmesh_client import MeshClient


async def test_what_was_known_stays_while_the_gateway_is_away(stand: Any) -> None:
    await stand.generation()
    async with stand.running_gateway() as (address, _):
        client = await stand.client(address, attempts=1)
        look = Look(client, address)
        await look.ask_or_say()
        assert look.screen.status is not None
        known = {one.instance_id for one in look.screen.status.instances}
        assert (known, look.screen.problem) == ({"gateway-1", "generation-1"}, "")
    await look.ask_or_say()
    assert "the gateway is away" in look.screen.problem
    assert {one.instance_id for one in look.screen.status.instances} == known

    await stand.gateway(listen=address)
    async with asyncio.timeout(10):
        while look.screen.problem:
            await look.ask_or_say()
    assert "gateway-2" in {one.instance_id for one in look.screen.status.instances}


async def test_the_last_events_are_known_and_told_as_json(stand: Any) -> None:
    address = await stand.gateway()
    client: MeshClient = await stand.client(address)
    look = Look(client, address)
    following = asyncio.create_task(look.follow_events())
    await stand.generation()
    async with asyncio.timeout(10):
        while not look.screen.events:
            await asyncio.sleep(0.01)
    following.cancel()
    assert look.screen.events[-1].name == "instance.registered"
    state = await as_json(Look(client, address))
    assert state["events"][-1]["instance_registered"]["instance_id"] == "generation-1"
    assert state["traffic"][0]["requests"] == "0"
