"""How many bytes of bodies the HTTP port holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from tests.fakes.waiting import until
from tests.integration.gateway.http_harness import answer_nothing, serving


async def test_bodies_are_counted_while_they_arrive() -> None:
    release = asyncio.Event()

    async def unfinished() -> AsyncGenerator[bytes]:
        yield b" " * 150_000
        await release.wait()
        yield b"{}"

    async with serving(answer_nothing) as served:
        held = [asyncio.create_task(served.post(content=unfinished())) for _ in range(3)]
        await until(lambda: served.door.held_bytes == 450_000)
        # One caller may hold 500,000 bytes; the next request has 150,000.
        refused = await served.post(content=b" " * 150_000 + b"{}")
        small = await served.post(content=b"{}")
        release.set()
        answers = await asyncio.gather(*held)
        again = await served.post(content=b" " * 150_000 + b"{}")
        await until(lambda: served.door.held_bytes == 0)
    assert (refused.status_code, refused.json()["reason"]) == (429, "TOO_MANY_REQUESTS")
    assert [one.status_code for one in (small, *answers, again)] == [200] * 5


async def test_what_was_counted_of_a_body_is_freed_when_its_client_goes_away() -> None:
    async def unfinished() -> AsyncGenerator[bytes]:
        yield b" " * 150_000
        raise ConnectionError

    async with serving(answer_nothing) as served:
        with pytest.raises(ConnectionError):
            await served.post(content=unfinished())
        await until(lambda: served.limiter.held == 0)
        assert served.door.held_bytes == 0
