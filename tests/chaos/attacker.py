"""A client that sends one request a hundred times at once, until it is killed or its time is over.

python -m tests.chaos.attacker ADDRESS NUMBER SECONDS [--gzip]

NUMBER is the request's place in `maximal_requests()`. At its end it prints a JSON object: how many
calls ended with which status.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections import Counter

import grpc
from grpc import aio

from mlxmesh_shared.rpc.caller import CALLER_METADATA
from tests.chaos.maximal import Request, maximal_requests

CALLS_AT_ONCE = 100
CALL_TIMEOUT_S = 10.0
# After a refusal, as a client that takes no notice of RetryInfo might.
PAUSE_S = 0.02


async def attack(address: str, request: Request, seconds: float, compression: bool) -> Counter[str]:
    """Statuses of all calls, by name."""
    wire, statuses = request.wire(), Counter[str]()
    end_s = time.monotonic() + seconds
    kind = grpc.Compression.Gzip if compression else grpc.Compression.NoCompression
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with aio.insecure_channel(address, options=options, compression=kind) as channel:

        async def one_after_another() -> None:
            while time.monotonic() < end_s:
                statuses[await _status(channel, request, wire)] += 1
                await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(one_after_another() for _ in range(CALLS_AT_ONCE)))
    return statuses


async def _status(channel: aio.Channel, request: Request, wire: bytes) -> str:
    metadata = ((CALLER_METADATA, "attacker"),)
    try:
        if request.streams:
            stream = channel.unary_stream(request.path)(
                wire, timeout=CALL_TIMEOUT_S, metadata=metadata
            )
            async for _ in stream:
                pass
        else:
            await channel.unary_unary(request.path)(wire, timeout=CALL_TIMEOUT_S, metadata=metadata)
    except aio.AioRpcError as error:
        return error.code().name
    return "OK"


def main() -> None:
    """Parses the options, attacks, prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("number", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--gzip", action="store_true")
    args = parser.parse_args()
    request = next(itertools.islice(maximal_requests(), args.number, None))
    print(json.dumps(asyncio.run(attack(args.address, request, args.seconds, args.gzip))))


if __name__ == "__main__":
    main()
