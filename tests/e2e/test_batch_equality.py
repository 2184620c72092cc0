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
    {"temperature": 0.3},
    {"temperature": 0.7},
    {"temperature": 1.5},
    {"temperature": 1.0, "top_p": 0.5},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.2, "top_p": 0.99},
    {"temperature": 0.8, "top_k": 2},
    {"temperature": 1.3, "top_k": 20},
    {"temperature": 2.0, "top_k": 200},
    {"temperature": 0.9, "min_p": 0.05},
    {"temperature": 1.4, "min_p": 0.2},
    {"repetition_penalty": 1.1},
    {"temperature": 0.8, "repetition_penalty": 1.2},
    {"temperature": 1.1, "repetition_penalty": 0.9},
    {"presence_penalty": 1.0},
    {"temperature": 0.6, "presence_penalty": -0.5},
    {"frequency_penalty": 0.8},
    {"temperature": 0.9, "frequency_penalty": -0.2},
    {"temperature": 1.0, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"logit_bias": {10: 6.0}},
    {"temperature": 0.7, "logit_bias": {20: -8.0}},
    {"temperature": 1.0, "logit_bias": dict.fromkeys(range(300, 340), 1.5)},
    {"temperature": 0.6, "top_k": 40, "top_p": 0.95},
    {"temperature": 0.9, "top_k": 30, "min_p": 0.02},
    {"temperature": 1.1, "top_p": 0.8, "min_p": 0.01},
    {"temperature": 1.2, "top_k": 50, "top_p": 0.9, "min_p": 0.03},
    {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.15},
    {"temperature": 1.0, "top_k": 25, "presence_penalty": 0.4},
    {"temperature": 0.8, "min_p": 0.1, "frequency_penalty": 0.6},
    {"temperature": 0.6, "top_k": 40, "top_p": 0.95, "logit_bias": {10: 3.0, 11: -5.0}},
    {
        "temperature": 1.3,
        "top_p": 0.97,
        "top_k": 60,
        "min_p": 0.01,
        "repetition_penalty": 1.05,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.1,
        "logit_bias": {12: -2.0},
    },
]


def requests() -> list[dict[str, Any]]:
    """One request for each setting, with its own seed, and prompts and lengths that differ."""
    return [
        {
            "messages": [("user", PROMPTS[i % len(PROMPTS)])],
            "max_tokens": 20 + i,
            "seed": 1000 + i,
            "ignore_eos": True,
            **setting,
        }
        for i, setting in enumerate(SETTINGS)
    ]


def test_the_settings_are_32_different_ones() -> None:
    assert len({repr(sorted(setting.items())) for setting in SETTINGS}) == 32


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
