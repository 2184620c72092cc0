"""Streams read on one host: python -m tests.hosts.streams GATEWAY TLS_DIR STREAMS TOKENS.

Prints a line when all have begun, and then one with what became of each, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from mlxmesh_client import CertificateFiles, MeshClient, MeshError

PROMPT = "Once upon a time"
BEGUN_TOKENS = 20


async def read(client: MeshClient, max_tokens: int, begun: asyncio.Event) -> dict[str, Any]:
    tokens: list[int] = []
    resumptions, engine = 0, ""
    events = client.generate(
        "pocket", prompt=PROMPT, max_tokens=max_tokens, ignore_eos=True, timeout_s=120
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


async def main(address: str, tls_dir: str, streams: str, max_tokens: str) -> None:
    tls = CertificateFiles.of_role(Path(tls_dir), "client")
    async with MeshClient(address, tls=tls, attempts=1) as client:
        events = [asyncio.Event() for _ in range(int(streams))]
        reading = [asyncio.create_task(read(client, int(max_tokens), begun)) for begun in events]
        for begun in events:
            await begun.wait()
        print("begun", flush=True)
        print(json.dumps(await asyncio.gather(*reading)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
