"""Compares the answers of several instances."""

from __future__ import annotations

from collections.abc import Sequence

from mlxmesh.generation.v1.generation_pb2 import GetGenerationResponse


def newest(found: Sequence[bytes]) -> bytes:
    """Of encoded GetGenerationResponses, that of the instance which the stream moved to last."""
    return max(found, key=lambda one: GetGenerationResponse.FromString(one).takeover)
