"""Attacks by one message that costs its receiver far more than its sender."""

from __future__ import annotations

import grpc

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, TokenInput
from tests.chaos.attack_calls import (
    COUNT_TOKENS,
    GENERATE,
    MIB,
    Outcomes,
    calls,
    field,
    number_of,
)


def empty_chat_messages(size_bytes: int = 16 * MIB - 64) -> bytes:
    """A request of millions of empty messages."""
    return field(number_of(GenerateRequest, "chat"), b"\x0a\x00" * (size_bytes // 2))


async def many_elements(address: str, for_s: float) -> Outcomes:
    """16 MB of empty chat messages."""
    return await calls(address, for_s, GENERATE, empty_chat_messages)


async def compressed_elements(address: str, for_s: float) -> Outcomes:
    """The same, 16 KB on the wire."""
    gzip = grpc.Compression.Gzip
    return await calls(address, for_s, GENERATE, empty_chat_messages, compression=gzip)


async def unknown_fields(address: str, for_s: float) -> Outcomes:
    """Millions of fields that the contract does not know."""
    return await calls(address, for_s, COUNT_TOKENS, lambda: b"\xfa\x3f\x00" * (5 * MIB))


async def packed_numbers(address: str, for_s: float) -> Outcomes:
    """Sixteen million token ids."""
    number = number_of(GenerateRequest, "tokens")
    ids = number_of(TokenInput, "token_ids")
    return await calls(
        address, for_s, GENERATE, lambda: field(number, field(ids, bytes(16 * MIB - 64)))
    )


async def map_entries(address: str, for_s: float) -> Outcomes:
    """Millions of entries of logit_bias."""
    number = number_of(GenerateRequest, "sampling")
    return await calls(address, for_s, GENERATE, lambda: field(number, b"\x4a\x00" * (8 * MIB)))


async def just_legal_lists(address: str, for_s: float) -> Outcomes:
    """Small requests with as many elements as the rules allow, a hundred at once."""

    def content() -> bytes:
        return field(number_of(GenerateRequest, "chat"), b"\x0a\x00" * 10_000)

    return await calls(address, for_s, GENERATE, content, at_once=100)
