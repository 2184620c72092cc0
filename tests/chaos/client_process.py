"""A client to be killed: holds streams until then, and says when each of them has a token.

python -m tests.chaos.client_process ADDRESS STREAMS
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process

from tests.chaos.clients import CALL_TIMEOUT_S, Crowd, mixed_requests

START_TIMEOUT_S = 120.0


async def hold(address: str, streams: int) -> None:
    """Opens the streams and reads them until this process is killed, or their time is over."""
    async with Crowd([address]) as crowd:
        crowd.start(mixed_requests(streams, max_tokens=1000), "held", kept=False)
        await crowd.until_each_has(1)
        print(sum(reader.tokens > 0 for reader in crowd.readers), flush=True)
        await asyncio.sleep(CALL_TIMEOUT_S)


class HoldingClient:
    """The process, from outside."""

    def __init__(self, address: str, streams: int) -> None:
        self._words = (address, str(streams))
        self._process: Process | None = None

    async def start(self) -> int:
        """How many streams it holds, once each has a token or has failed."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.client_process", *self._words, stdout=PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            return int(await self._process.stdout.readline() or 0)

    def kill(self) -> None:
        """Ends it at once, its connections with it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def ended(self) -> None:
        """Returns when the process is gone."""
        if self._process is not None:
            await self._process.wait()


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], int(sys.argv[2])))
