"""Streams read on one host: python -m tests.hosts.streams GATEWAY TLS_DIR STREAMS TOKENS
[SECONDS [MODEL]].

With SECONDS, each is followed by others until so many have passed.

Prints a line when all have begun, and then one with what became of each, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from mlxmesh_client import CertificateFiles, MeshClient, MeshError

PROMPT = "Once upon a time"
BEGUN_TOKENS = 20


async def read(
    client: MeshClient, max_tokens: int, begun: asyncio.Event, model: str
) -> dict[str, Any]:
    tokens: list[int] = []
    resumptions, engine = 0, ""
    events = client.generate(
        model, prompt=PROMPT, max_tokens=max_tokens, ignore_eos=True, timeout_s=120
    )
    try:
        async for event in events:
            tokens += event.token_ids
            if event.started is not None:
                engine = event.started.engine_id
            if len(tokens) >= BEGUN_TOKENS:
                begun.set()
            if event.finished is not None:
                resumptions = event.finished.timings.resumptions
    except MeshError as error:
        return {"tokens": tokens, "reason": error.reason, "retryable": error.retryable}
    finally:
        begun.set()
    return {"tokens": tokens, "resumptions": resumptions, "engine": engine}


async def read_for(
    client: MeshClient, max_tokens: int, begun: asyncio.Event, seconds: float, model: str
) -> list[dict[str, Any]]:
    until_s = time.monotonic() + seconds
    outcomes = [await read(client, max_tokens, begun, model)]
    while time.monotonic() < until_s:
        outcomes.append(await read(client, max_tokens, begun, model))
    return outcomes


async def main(
    address: str,
    tls_dir: str,
    streams: str,
    max_tokens: str,
    seconds: str = "0",
    model: str = "pocket",
) -> None:
    tls = CertificateFiles.of_role(Path(tls_dir), "client")
    async with MeshClient(address, tls=tls, attempts=1) as client:
        events = [asyncio.Event() for _ in range(int(streams))]
        reading = [
            asyncio.create_task(read_for(client, int(max_tokens), begun, float(seconds), model))
            for begun in events
        ]
        for begun in events:
            await begun.wait()
        print("begun", flush=True)
        found = await asyncio.gather(*reading)
        print(json.dumps([outcome for outcomes in found for outcome in outcomes]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
