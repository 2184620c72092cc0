"""Log-probabilities of tokens in OpenAI's shapes. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from mlxmesh.generation.v1 import generation_pb2 as pb

Tokens = Sequence[pb.TokenLogprob]
NEVER = -9999.0
"""OpenAI's number for a token without a log-probability."""


def chat_logprobs(tokens: Tokens) -> list[dict[str, Any]]:
    """As chats and responses have them."""
    return [{**_token(one), "top_logprobs": [_token(each) for each in one.top]} for one in tokens]


def _token(token: pb.TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.bytes.decode(errors="backslashreplace"),
        "logprob": token.logprob if token.HasField("logprob") else NEVER,
        "bytes": list(token.bytes),
    }


class TextLogprobs:
    """Those of one text completion, in parts; offsets and characters go on from part to part."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def add(self, tokens: Tokens) -> tuple[str, dict[str, Any]]:
        """The text of the tokens, and their log-probabilities as text completions have them."""
        texts: list[str] = []
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offset)
            texts.append(self._decoder.decode(token.bytes))
            self._offset += len(texts[-1])
        return "".join(texts), {
            "tokens": [_text_of(one) for one in tokens],
            "token_logprobs": [one.logprob if one.HasField("logprob") else None for one in tokens],
            "top_logprobs": [_top(one) for one in tokens],
            "text_offset": offsets,
        }


def _top(token: pb.TokenLogprob) -> dict[str, float] | None:
    """The most likely tokens, and the token itself; of tokens with one text, the likelier."""
    if not token.HasField("logprob"):
        return None
    found: dict[str, float] = {}
    for one in (*token.top, token):
        found.setdefault(_text_of(one), one.logprob)
    return found


def _text_of(token: pb.TokenLogprob) -> str:
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
