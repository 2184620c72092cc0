"""Authenticated callers count as who they are, whatever they claim; records say who they are."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub

from .conftest import Stand

ADA, BOB = "mm_AdaAdaAd_0123456789", "mm_BobBobBo_0123456789"


def headers(secret: str, claimed: str = "") -> tuple[tuple[str, str], ...]:
    named = (("mlxmesh-caller", claimed),) if claimed else ()
    return (("authorization", f"Bearer {secret}"), *named)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        stand = Stand(stack, tmp_path)
        access = await stand.access()
        for name, secret in (("ada", ADA), ("bob", BOB)):
            await access.add_user(name)
            await access.add_key(secret, user=name)
        yield stand


async def test_a_key_has_only_its_own_places_whatever_it_claims(stand: Any) -> None:
    service = await stand.generation()
    channel = await stand.channel(await stand.gateway(max_concurrent_rpcs=8, max_rpcs_per_caller=6))
    stub = GenerationServiceStub(channel)
    service.go_on.clear()

    async def begins(metadata: tuple[tuple[str, str], ...]) -> bool:
        call = stub.Generate(g.GenerateRequest(model="pocket", prompt="a b"), metadata=metadata)
        running.append(call)
        try:
            await anext(aiter(call))
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED
        return True

    running: list[Any] = []
    begun = [await begins(headers(ADA, f"name-{number}")) for number in range(10)]
    assert begun == [True] * 6 + [False] * 4
    # The name of another key is a claim like any other.
    assert not await begins(headers(ADA, "key:k_2"))
    assert await begins(headers(BOB))
    assert {seen["mlxmesh-caller"] for seen in service.metadata} == {"key:k_1", "key:k_2"}
    for call in running:
        call.cancel()


async def test_the_memory_for_large_requests_is_shared_by_keys(stand: Any) -> None:
    service = await stand.generation()
    channel = await stand.channel(await stand.gateway(max_held_bytes=600_000))
    stub = GenerationServiceStub(channel)
    large = g.GenerateRequest(model="pocket", prompt="a " * 100_000)
    service.go_on.clear()
    calls = [stub.Generate(large, metadata=headers(ADA, f"name-{number}")) for number in range(3)]
    outcomes: Counter[str] = Counter()
    for call in calls:
        try:
            await anext(aiter(call))
            outcomes["ok"] += 1
        except grpc.aio.AioRpcError as error:
            outcomes[error.code().name] += 1
    # A key has half of the memory, whatever it claims.
    assert outcomes == {"ok": 1, "RESOURCE_EXHAUSTED": 2}
    bob = stub.Generate(large, metadata=headers(BOB))
    await anext(aiter(bob))
    for call in (*calls, bob):
        call.cancel()


def records_of_counts(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The access records of calls of CountTokens."""
    fields = [vars(one)["fields"] for one in caplog.records if one.name == "mlxmesh.access"]
    return [one for one in fields if one["method"].endswith("/CountTokens")]


async def test_the_record_of_a_call_says_who_made_it_and_nothing_secret(
    stand: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await stand.generation()
    stub = GenerationServiceStub(await stand.channel(await stand.gateway()))
    count = g.CountTokensRequest(model="pocket", prompt="a")
    with caplog.at_level(logging.DEBUG):
        await stub.CountTokens(count, metadata=headers(ADA, "laptop"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.CountTokens(count, metadata=headers("mm_wrong_secret"))
        # Two at the gateway, and one at the service behind it, which knows no principals.
        async with asyncio.timeout(30):
            while len(served := records_of_counts(caplog)) < 3:
                await asyncio.sleep(0.01)
    assert sorted(one["code"] for one in served) == ["OK", "OK", "UNAUTHENTICATED"]
    said = [(one["code"], one["principal"]) for one in served if "principal" in one]
    assert said == [("OK", "key:k_1#laptop")]
    everything = " ".join(f"{one.getMessage()} {vars(one)}" for one in caplog.records)
    assert ADA not in everything
    assert "mm_wrong_secret" not in everything
