"""Groups of real engine processes on this host, each process a rank."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from mlxmesh.common.v1 import sampling_pb2
from mlxmesh.engine.v1 import engine_pb2, engine_pb2_grpc
from mlxmesh_shared.rpc.channels import open_channel

START_TIMEOUT_S = 180
END_TIMEOUT_S = 60
# Another process may keep the processor for long: only where a rank is lost, silence is tested.
PATIENT_S = "300"


class Rank:
    """One spawned process and its reports on stdout."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.reports: list[dict[str, Any]] = []

    async def report(self, key: str) -> Any:
        """The value of the first report that has the key. Raises: AssertionError if it ends."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            while line := await self.process.stdout.readline():
                self.reports.append(json.loads(line))
                if key in self.reports[-1]:
                    return self.reports[-1][key]
        raise AssertionError(f"it ended: {self.reports} {await self.errors()}")

    async def says(self, text: str) -> None:
        """Reads its log until a line has the text. Raises: AssertionError if it ends before."""
        assert self.process.stderr is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            while line := await self.process.stderr.readline():
                if text in line.decode():
                    return
        raise AssertionError(f"it ended: {self.reports}")

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), END_TIMEOUT_S)

    async def errors(self) -> str:
        assert self.process.stderr is not None
        return (await asyncio.wait_for(self.process.stderr.read(), END_TIMEOUT_S)).decode()


class Group:
    """The ranks of a group, and calls to rank 0."""

    def __init__(self, ranks: Sequence[Rank], address: str) -> None:
        self.ranks = ranks
        self.address = address
        # A busy machine answers pings late, and where an engine is lost the connection ends.
        self._channel = open_channel(address, pings=False)
        self.stub: Any = engine_pb2_grpc.EngineServiceStub(self._channel)

    async def run(self, *submits: engine_pb2.Submit) -> dict[int, list[int]]:
        """The tokens of each sequence; all are submitted at once."""
        return {number: result.tokens for number, result in (await self.results(*submits)).items()}

    async def results(
        self, *submits: engine_pb2.Submit, begun: asyncio.Event | None = None
    ) -> "dict[int, Result]":
        """begun: is set with the first token."""
        call = self.stub.Execute()
        for submit in submits:
            await call.write(engine_pb2.ExecuteRequest(submit=submit))
        await call.done_writing()
        results = {submit.sequence_id: Result() for submit in submits}
        async for response in call:
            for output in response.outputs:
                results[output.sequence_id].add(output)
                if output.token_ids and begun is not None:
                    begun.set()
        return results

    async def close(self) -> None:
        await self._channel.close()


class Result:
    """What one sequence has got."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.cached_tokens = 0
        self.finish_reason = 0
        self.prompt_logprobs: list[float] = []

    def add(self, output: engine_pb2.SequenceOutput) -> None:
        self.tokens += output.token_ids
        cached = max(output.cached_tokens, output.accepted.cached_tokens)
        self.cached_tokens = max(self.cached_tokens, cached)
        self.finish_reason = output.finish_reason or self.finish_reason
        self.prompt_logprobs += output.prompt_logprobs.chosen


def submit(
    number: int, prompt: Sequence[int], *, max_tokens: int = 12, seed: int | None = None
) -> engine_pb2.Submit:
    """A greedy sequence, or a sampled one with a seed."""
    sampling = sampling_pb2.Sampling(temperature=0)
    if seed is not None:
        sampling = sampling_pb2.Sampling(temperature=1.0, seed=seed)
    return engine_pb2.Submit(
        sequence_id=number,
        prompt_token_ids=prompt,
        max_tokens=max_tokens,
        sampling=sampling,
        ignore_eos=True,
    )


@contextlib.asynccontextmanager
async def spawned(*arguments: str) -> AsyncIterator[Rank]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mlxmesh_engine",
        "--no-telemetry",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"MLXMESH_EXIT_WITH_PARENT": "1"},
    )
    try:
        yield Rank(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def group(
    model_dir: Path,
    size: int,
    *arguments: str,
    silence_s: str = PATIENT_S,
    start_silence_s: str = PATIENT_S,
    shares: Sequence[int] = (),
) -> AsyncIterator[Group]:
    """A group that serves. shares: of the layers, in millionths, by rank."""
    common = ("--model-dir", str(model_dir), "--group-size", str(size), *arguments)
    common = (*common, "--group-silence-s", silence_s)
    common = (*common, "--group-start-silence-s", start_silence_s)
    async with contextlib.AsyncExitStack() as stack:
        leader = await stack.enter_async_context(spawned(*common))
        joining = await leader.report("group_address")
        ranks = [leader]
        for rank in range(1, size):
            place = ("--group-rank", str(rank), "--group-leader", joining)
            if shares:
                place = (*place, "--group-share-ppm", str(shares[rank]))
            ranks.append(await stack.enter_async_context(spawned(*common, *place)))
        serving = Group(ranks, await leader.report("address"))
        stack.push_async_callback(serving.close)
        yield serving
