"""Quotas and fair shares of API keys, over two gateways, with a simulated engine.

    .venv/bin/python -m tests.bench.bench_quotas [--rounds 1] [--seconds 120] [--json FILE]

100 keys ask for more than their tokens a minute allow; then equal keys ask a full engine with
different numbers of calls, under any number of claimed names.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mlxmesh.generation.v1.generation_pb2 import CompleteRequest, GenerateRequest
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import MeshError, QuotaExceeded
from mlxmesh_shared.rpc.caller import CALLER_METADATA
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from tests.bench.results import Findings, Result, Row, run_alone
from tests.chaos.mesh import ChaosMesh, Shape, running

KEYS = 100
TOKENS_PER_MINUTE = 600
SECONDS = 120.0
CALL_TOKENS = 20
"""Of the output of one call."""
SHARE_SECONDS = 30.0
SLICE = 0.1
"""Of a minute's limit that one gateway may hold beyond it (docs/operations.md)."""
MAX_WAIT_S = 5.0
ENGINE = {
    "MLXMESH_ENGINE_BACKEND": "simulated",
    "MLXMESH_ENGINE_SIMULATED_PREFILL_US_PER_TOKEN": "0",
    "MLXMESH_ENGINE_SIMULATED_STEP_MS": "20",
}
REQUEST = CompleteRequest(
    generation=GenerateRequest(
        model="pocket", prompt="Hello", max_tokens=CALL_TOKENS, ignore_eos=True
    )
)
FULL_ENGINE = {**ENGINE, "MLXMESH_ENGINE_MAX_RUNNING": "8"}


@dataclass
class Caller:
    """One key, and what was generated with it."""

    key: str
    stubs: Sequence[GenerationServiceStub]
    """Of the gateways."""
    name: str = ""
    """That it claims."""
    by_minute: Counter[int] = field(default_factory=Counter[int])
    refused: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])

    async def call_until(self, end_s: float) -> None:
        """Calls in turns through the gateways, waiting as long as a refusal says."""
        metadata = [("authorization", f"Bearer {self.key}")]
        metadata += [(CALLER_METADATA, self.name)] if self.name else []
        stubs = itertools.cycle(self.stubs)
        while time.time() < end_s:
            try:
                answer = await next(stubs).Complete(REQUEST, metadata=metadata, timeout=30)
            except QuotaExceeded as error:
                self.refused += 1
                await asyncio.sleep(min(MAX_WAIT_S, error.retry_delay_s or 1.0))
            except MeshError as error:
                self.failed[error.reason] += 1
                await asyncio.sleep(0.1)
            else:
                if time.time() >= end_s:
                    return  # it would favour those with the most calls
                usage = answer.finished.usage
                used = usage.prompt_tokens + usage.completion_tokens
                self.by_minute[int(time.time() // 60)] += used


async def measure_quotas(seconds: float) -> tuple[list[Row], list[Result]]:
    """No key gets more than its limit and what gateways may hold beyond it."""
    async with running(Shape(gateways=2, environment=ENGINE)) as mesh, AsyncExitStack() as stack:
        admin = await sign_up(mesh, stack)
        stubs = [await _stub(stack, one.address) for one in await mesh.instances("gateway")]
        callers = [await _limited(admin, stubs, number) for number in range(KEYS)]
        # From the begin of a minute on, so that a whole one is measured.
        await asyncio.sleep(60 - time.time() % 60)
        end_s = time.time() + seconds
        await asyncio.gather(*(caller.call_until(end_s) for caller in callers))
    used = [tokens for caller in callers for tokens in caller.by_minute.values()]
    failed = sum((caller.failed for caller in callers), Counter[str]())
    allowed = TOKENS_PER_MINUTE * (1 + SLICE * 2)
    row: Row = {
        "keys": KEYS,
        "limit a minute": TOKENS_PER_MINUTE,
        "least": min(used),
        "most": max(used),
        "refused": sum(caller.refused for caller in callers),
        "failed": ", ".join(f"{count} {reason}" for reason, count in failed.items()) or "0",
    }
    return [row], [
        Result("most tokens a minute of a key", max(used), allowed, "tokens", at_least=False),
        Result("calls that failed otherwise", failed.total(), 0, "calls", at_least=False),
        Result("least tokens a minute of a key", min(used), 0.8 * TOKENS_PER_MINUTE, "tokens"),
    ]


async def measure_shares() -> tuple[list[Row], list[Result]]:
    """Equal keys get equal shares of a full engine, however often and by what name they ask."""
    async with (
        running(Shape(replicas=1, environment=FULL_ENGINE)) as mesh,
        AsyncExitStack() as stack,
    ):
        admin = await sign_up(mesh, stack)
        stub = await _stub(stack, mesh.address)
        asks = [(8, 1), (16, 16), (32, 1), (32, 32)]
        tokens: Counter[int] = Counter()
        end_s = time.time() + SHARE_SECONDS
        tasks: list[asyncio.Task[None]] = []
        for number, (calls, names) in enumerate(asks):
            created = await admin.access.create_key(f"share-{number}", user="bench")
            for call in range(calls):
                name = f"name-{call}" if names > 1 else ""
                caller = Caller(created.secret, [stub], name)
                tasks.append(asyncio.create_task(_count(caller, end_s, tokens, number)))
        await asyncio.gather(*tasks)
    rows: list[Row] = [
        {"key": number, "calls": calls, "claimed names": names, "tokens": tokens[number]}
        for number, (calls, names) in enumerate(asks)
    ]
    spread = (max(tokens.values()) - min(tokens.values())) / min(tokens.values())
    return rows, [Result("spread of equal keys' shares", spread, 0.1, at_least=False)]


async def _count(caller: Caller, end_s: float, tokens: Counter[int], number: int) -> None:
    await caller.call_until(end_s)
    tokens[number] += caller.by_minute.total()


async def sign_up(mesh: ChaosMesh, stack: AsyncExitStack) -> MeshClient:
    """Creates the first admin, and a user of the name bench; a client with the admin's key."""
    file = Path(mesh.data_dir) / "password"
    file.write_text(secrets.token_urlsafe(16))
    words = ("users", "create", "root", "--admin", "--password-file", str(file))
    code, output = await mesh.mlxmesh(*words, timeout_s=60)
    if code:
        raise RuntimeError(output)
    code, output = await mesh.mlxmesh("keys", "create", "bench", "--admin", timeout_s=60)
    if code:
        raise RuntimeError(output)
    admin = await stack.enter_async_context(
        MeshClient(mesh.address, api_key=output.strip().splitlines()[0])
    )
    await admin.access.create_user("bench", kind="service_account")
    return admin


async def _stub(stack: AsyncExitStack, address: str) -> GenerationServiceStub:
    channel = open_channel(address, role="gateway", certificates=None, timeouts=LONG_TIMEOUTS)
    stack.push_async_callback(channel.close)
    return GenerationServiceStub(channel)


async def _limited(
    admin: MeshClient, stubs: Sequence[GenerationServiceStub], number: int
) -> Caller:
    created = await admin.access.create_key(f"bench-{number}", user="bench")
    subject = ("key", created.key.key_id)
    await admin.access.set_quota(subject, tokens_per_minute=TOKENS_PER_MINUTE)
    return Caller(created.secret, stubs)


def measure(rounds: int, *, seconds: Sequence[float]) -> Findings:
    """Both parts."""
    quota_rows, results = asyncio.run(measure_quotas(rounds * seconds[0]))
    share_rows, share_results = asyncio.run(measure_shares())
    return Findings(
        [*results, *share_results], {"quotas": quota_rows, "shares of a full engine": share_rows}
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=1, seconds=(SECONDS,))
