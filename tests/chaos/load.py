"""A steady load of short calls and streams, none of which is ever repeated."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence

from mlxmesh.generation.v1.generation_pb2 import CountTokensRequest, GenerateRequest
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateSource
from tests.bench.results import Row
from tests.chaos.clients import Reader, no_pause, status_of
from tests.chaos.history import OK, Call

UNARY_CALLERS = 4
CALL_TIMEOUT_S = 30.0
# Leaves a shared machine room for what is tested.
PAUSE_S = 0.004


class SteadyLoad:
    """Runs from entering to leaving the context; leaving waits for the calls that run."""

    def __init__(
        self,
        address: str,
        requests: Sequence[GenerateRequest],
        *,
        streams: int,
        certificates: CertificateSource | None = None,
    ) -> None:
        self.ends: Counter[tuple[str, str]] = Counter()
        """How many calls ended how, by method and status."""
        self.calls: list[Call] = []
        """What the streams saw."""
        self._requests = requests
        self._streams = streams
        self._numbers = itertools.count()
        self._channel = open_channel(
            address, role="gateway", certificates=certificates, timeouts=LONG_TIMEOUTS
        )
        self._stub = GenerationServiceStub(self._channel)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> SteadyLoad:
        work = [self._count_tokens() for _ in range(UNARY_CALLERS)]
        work += [self._generate() for _ in range(self._streams)]
        self._tasks = [asyncio.create_task(each) for each in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._channel.close()

    @property
    def total(self) -> int:
        """Calls that ended so far."""
        return self.ends.total()

    @property
    def failed(self) -> int:
        """Calls that ended with an error so far."""
        return sum(count for (_, status), count in self.ends.items() if status != OK)

    def rows(self) -> list[Row]:
        """Ends by method and status."""
        return [
            {"method": method, "end": status, "calls": count}
            for (method, status), count in sorted(self.ends.items())
        ]

    async def _count_tokens(self) -> None:
        request = CountTokensRequest(model="pocket", prompt="How many tokens are these?")
        while not self._stop.is_set():
            status = OK
            try:
                await self._stub.CountTokens(request, timeout=CALL_TIMEOUT_S)
            except MeshError as error:
                status = status_of(error)
            self.ends["CountTokens", status] += 1
            await asyncio.sleep(PAUSE_S)

    async def _generate(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            request = GenerateRequest()
            request.CopyFrom(self._requests[number % len(self._requests)])
            reader = Reader([self._stub], request, no_pause, call_id=f"load-{number}")
            await reader.run()
            call = reader.call()
            self.calls.append(call)
            self.ends["Generate", call.status] += 1
