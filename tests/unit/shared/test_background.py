"""Work beside a body: it ends with the body, and the body ends with it when it fails."""

import asyncio

import pytest

from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.process.service_host import running_in_background


async def test_it_runs_until_the_body_ends() -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("ended")

    async with running_in_background(work()):
        await asyncio.sleep(0)
        assert steps == ["begun"]
    assert steps == ["begun", "ended"]


async def test_its_failure_ends_the_body_and_the_other_work() -> None:
    ended: list[str] = []

    async def fail() -> None:
        raise IllegalState("the registry is gone")

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("other")

    with pytest.raises(ExceptionGroup) as raised:
        async with running_in_background(fail(), other()):
            await asyncio.Event().wait()
    assert raised.group_contains(IllegalState, match="the registry is gone")
    assert ended == ["other"]


async def test_a_failure_of_the_body_ends_the_work() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    async def body() -> None:
        async with running_in_background(work()):
            await asyncio.sleep(0)
            raise IllegalState("the service failed")

    with pytest.raises(ExceptionGroup) as raised:
        await body()
    assert raised.group_contains(IllegalState, match="the service failed")
    assert ended == ["work"]
