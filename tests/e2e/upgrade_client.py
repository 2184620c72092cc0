"""Calls a mesh without a pause and without retries until its input ends, then prints what it saw.

    python -m tests.e2e.upgrade_client GRPC HTTP

Prints `ready` once every caller has its first answer. It runs with any version of mlxmesh, so it
uses only what every version has.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from mlxmesh_client import MeshClient
from tests.chaos.sse_client import events

TOKENS = 160
STORIES = ("Tell me a long story about a fox.", "Tell me a long story about a bear.")
SEEDED = {"temperature": 0.8, "seed": 7}
STREAMS = 4


async def tokens_of(client: MeshClient, story: str) -> list[int]:
    """One whole stream; the story about the bear is sampled."""
    tokens: list[int] = []
    finished = False
    sampling = SEEDED if story == STORIES[1] else {}
    async for event in client.generate(
        "pocket", messages=[("user", story)], max_tokens=TOKENS, ignore_eos=True, **sampling
    ):
        tokens += event.token_ids
        finished = event.finished is not None
    if not finished:
        raise ValueError("the stream ended without Finished")
    return tokens


async def text_of(http: str, story: str) -> str:
    """One whole stream of chat completions."""
    body = {"model": "pocket", "stream": True, "max_tokens": TOKENS, "temperature": 0}
    body = {**body, "messages": [{"role": "user", "content": story}]}
    text = ""
    async for event in events(http, "POST", "/v1/chat/completions", body=body):
        if event.data == "[DONE]":
            return text
        content = json.loads(event.data)
        text += "".join(one["delta"].get("content") or "" for one in content["choices"])
    raise ValueError(f"the stream ended without [DONE]: {text[-100:]}")


class Load:
    """What callers saw that never try again."""

    def __init__(self, address: str, http: str) -> None:
        self.address = address
        self.http = http
        self.completed = Counter[str]()
        self.errors: list[str] = []
        self.ready = 0
        """Callers that have an answer to compare with."""
        self.ended = asyncio.Event()

    async def repeat(
        self, what: str, call: Callable[[], Awaitable[object]], pause_s: float
    ) -> None:
        """Calls until the end; each answer must equal the first."""
        reference = await call()
        self.ready += 1
        while not self.ended.is_set():
            start = time.time()
            try:
                answer = await call()
                if answer != reference:
                    raise ValueError(f"{answer} is not {reference}")
                self.completed[what] += 1
            except Exception as error:  # noqa: BLE001  every kind is a failed call
                times = f"{start:.3f} to {time.time():.3f}"
                self.errors.append(f"{what} ({times}): {error!r} {error.__cause__!r}")
            await asyncio.sleep(pause_s)

    async def stream(self, story: str) -> None:
        """Streams by gRPC, over a connection of their own."""
        async with MeshClient(self.address, attempts=1) as client:
            await self.repeat("Generate", lambda: tokens_of(client, story), 0)

    async def count(self) -> None:
        """Short calls by gRPC."""
        async with MeshClient(self.address, attempts=1) as client:

            async def counted() -> object:
                return await client.count_tokens("pocket", prompt="Hi there")

            await self.repeat("CountTokens", counted, 0.02)

    async def chat(self) -> None:
        """Streams by HTTP, each over a new connection."""
        await self.repeat("chat", lambda: text_of(self.http, STORIES[0]), 0)


async def main(address: str, http: str) -> None:
    load = Load(address, http)
    async with asyncio.TaskGroup() as callers:
        for number in range(STREAMS):
            callers.create_task(load.stream(STORIES[number % 2]))
        callers.create_task(load.count())
        callers.create_task(load.chat())
        while load.ready < STREAMS + 2:
            await asyncio.sleep(0.05)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        load.ended.set()
    print(json.dumps({"completed": load.completed, "errors": load.errors}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
