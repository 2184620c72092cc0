"""32 concurrent streams with 32 sampling settings: each equals the same request run alone."""

from __future__ import annotations

import asyncio
from typing import Any

from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh

PROMPTS = (
    "Tell me a long story about a fox.",
    "Sort: pear apple fig",
    "Hi",
    "What is mlxmesh?",
)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 20},
    {"temperature": 0.9, "min_p": 0.05},
    {"temperature": 0.8, "repetition_penalty": 1.2},
    {"temperature": 1.0, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"temperature": 0.6, "top_k": 40, "top_p": 0.95, "logit_bias": {10: 3.0, 11: -5.0}},
]


def requests() -> list[dict[str, Any]]:
    """32 requests: every setting with every prompt, each with its own seed and length."""
    return [
        {
            "messages": [("user", prompt)],
            "max_tokens": 20 + 3 * (i + j),
            "seed": 1000 * i + j,
            "ignore_eos": True,
            **setting,
        }
        for i, prompt in enumerate(PROMPTS)
        for j, setting in enumerate(SETTINGS)
    ]


async def test_each_of_32_concurrent_streams_equals_itself_alone(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:

        async def tokens(request: dict[str, Any]) -> list[int]:
            out: list[int] = []
            async for event in client.generate("pocket", **request):
                out += event.token_ids
            return out

        together = await asyncio.gather(*(tokens(request) for request in requests()))
        alone = [await tokens(request) for request in requests()]
    assert [len(t) for t in together] == [r["max_tokens"] for r in requests()]
    assert together == alone
