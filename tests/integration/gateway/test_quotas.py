"""Quotas at a gateway: which call is refused, by which limit, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlxmesh.access.v1 import access_pb2 as a
from mlxmesh.access.v1 import policy_pb2 as p
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.errors import MeshError, QuotaExceeded, ServiceUnavailable
from mlxmesh_shared.rpc.channels import open_channel

from .conftest import Stand

SECRET = "mm_AbCdEfGh_0123456789"
MINE = (("authorization", f"Bearer {SECRET}"),)
SUBJECTS = {
    "key:k_1": a.QuotaSubject(key_id="k_1"),
    "user:ada": a.QuotaSubject(user="ada"),
    "team:red": a.QuotaSubject(team="red"),
}


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        yield Stand(stack, tmp_path)


async def with_quota(stand: Any, subject: str = "key:k_1", **limits: int) -> Any:
    access = await stand.access()
    await access.add_user("ada", team="red")
    await access.add_key(SECRET)
    await access.set_quota(SUBJECTS[subject], **limits)
    return access


async def connected(stand: Any) -> Any:
    channel = open_channel(await stand.gateway())
    stand._stack.push_async_callback(channel.close)
    return GenerationServiceStub(channel)


async def complete(stub: Any, prompt: str = "a") -> None:
    request = g.CompleteRequest(generation=g.GenerateRequest(model="pocket", prompt=prompt))
    await stub.Complete(request, metadata=MINE)


async def refused(stub: Any, calls: int) -> list[QuotaExceeded]:
    errors: list[QuotaExceeded] = []
    for _ in range(calls):
        try:
            await complete(stub)
        except QuotaExceeded as error:
            errors.append(error)
    return errors


def left(access: Any, subject: str, limit: int, amount: int) -> tuple[str, int]:
    place = str(SUBJECTS[subject]).strip(), limit
    access.left[place] = amount
    return place


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_a_call_counts_against_its_key_its_user_and_its_team(
    stand: Any, subject: str
) -> None:
    service = await stand.generation()
    access = await with_quota(stand, subject, requests_per_minute=20)
    place = left(access, subject, p.QUOTA_LIMIT_REQUESTS_PER_MINUTE, 20)
    access.slice_tokens = 2
    stub = await connected(stand)
    errors: list[QuotaExceeded] = []
    async with asyncio.timeout(20):
        while not errors or (errors[-1].retry_delay_s or 0) < 1:
            errors += await refused(stub, 1)
            await asyncio.sleep(0.02)
    assert f"requests_per_minute of {subject}" in errors[-1].message
    assert errors[-1].retry_delay_s is not None
    assert 1 < errors[-1].retry_delay_s <= 5
    assert 20 <= len(service.requests) <= 20 + 2 + 2
    assert 20 <= access.spent[place] <= len(service.requests)


async def test_a_quota_that_others_have_used_up_refuses_before_the_request_is_read(
    stand: Any,
) -> None:
    service = await stand.generation()
    access = await with_quota(stand, requests_per_minute=100)
    left(access, "key:k_1", p.QUOTA_LIMIT_REQUESTS_PER_MINUTE, 0)
    stub = await connected(stand)
    async with asyncio.timeout(20):
        while not await refused(stub, 1):
            await asyncio.sleep(0.05)
    served = len(service.requests)
    assert await refused(stub, 3)
    assert len(service.requests) == served
    # Not a generation: it uses nothing.
    await stub.CountTokens(g.CountTokensRequest(model="pocket", prompt="a"), metadata=MINE)


async def test_a_quota_that_is_set_anew_counts_from_the_next_call(stand: Any) -> None:
    await stand.generation()
    access = await with_quota(stand, requests_per_minute=10)
    place = left(access, "key:k_1", p.QUOTA_LIMIT_REQUESTS_PER_MINUTE, 0)
    stub = await connected(stand)
    async with asyncio.timeout(20):
        while not await refused(stub, 1):
            await asyncio.sleep(0.05)
    access.left[place] = 90
    await access.set_quota(SUBJECTS["key:k_1"], requests_per_minute=100)
    async with asyncio.timeout(30):  # until the watch has told it
        while await refused(stub, 1):
            await asyncio.sleep(0.05)
    assert await refused(stub, 20) == []
    access.left[place] = 0
    await access.set_quota(SUBJECTS["key:k_1"], requests_per_minute=5)
    async with asyncio.timeout(30):
        while not await refused(stub, 1):
            await asyncio.sleep(0.05)
    assert len(await refused(stub, 5)) == 5


async def test_tokens_are_charged_as_they_become_known(stand: Any) -> None:
    service = await stand.generation()
    access = await with_quota(stand, tokens_per_minute=1000)
    place = left(access, "key:k_1", p.QUOTA_LIMIT_TOKENS_PER_MINUTE, 1000)
    stub = await connected(stand)
    service.go_on.clear()
    request = g.GenerateRequest(model="pocket", prompt="a b c", max_tokens=70)
    call = stub.Generate(request, metadata=MINE)
    await anext(aiter(call))
    async with asyncio.timeout(30):
        while access.spent[place] < 70:
            await asyncio.sleep(0.02)
    assert access.spent[place] == 70  # as many as it may use
    service.go_on.set()
    async for _ in call:
        pass
    # The fake reports no tokens, so the next calls get back what this one was charged.
    await complete(stub)
    await asyncio.sleep(1)
    assert access.spent[place] == 70


async def test_only_so_many_generations_run_at_one_time(stand: Any) -> None:
    service = await stand.generation()
    access = await with_quota(stand, concurrent_generations=2)
    left(access, "key:k_1", p.QUOTA_LIMIT_CONCURRENT_GENERATIONS, 2)
    stub = await connected(stand)
    service.go_on.clear()
    running: list[Any] = []
    async with asyncio.timeout(20):
        while len(running) < 2:
            call = stub.Generate(g.GenerateRequest(model="pocket", prompt="a b"), metadata=MINE)
            try:
                await anext(aiter(call))
                running.append(call)
            except QuotaExceeded:
                await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    with pytest.raises(QuotaExceeded, match="concurrent_generations of key:k_1"):
        await complete(stub)
    running[0].cancel()
    service.go_on.set()
    async with asyncio.timeout(20):
        while await refused(stub, 1):
            await asyncio.sleep(0.05)


async def test_while_access_is_away_calls_go_on_at_the_last_rate(stand: Any) -> None:
    service = await stand.generation()
    access = await with_quota(stand, requests_per_minute=100)
    stub = await connected(stand)
    access.errors = {"LeaseQuotas": ServiceUnavailable("away")}
    errors = await refused(stub, 60)
    assert 1 <= len(service.requests) <= 21
    assert errors
    assert "requests_per_minute" in errors[-1].message


async def test_a_principal_without_a_quota_asks_for_none(stand: Any) -> None:
    await stand.generation()
    access = await with_quota(stand, "user:ada")
    stub = await connected(stand)
    assert await refused(stub, 20) == []
    assert access.calls["LeaseQuotas"] == 0


async def test_a_quota_says_the_same_over_http_as_over_grpc() -> None:
    from mlxmesh_gateway.http.statuses import error_headers, http_status

    error: MeshError = QuotaExceeded("used up", retry_delay_s=2.5)
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert http_status(error) == 429
    assert ("retry-after", "3") in error_headers(error)
