"""Tool calls and log-probabilities as they are shown. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlxmesh_cli.screen.grid import Column, Grid

if TYPE_CHECKING:
    from mlxmesh.generation.v1.generation_pb2 import TokenLogprob, ToolCall


def call_text(call: ToolCall, *, is_cut: bool = False) -> str:
    """The name of a call, and its arguments with one value on a line.

    is_cut: whether the output reached its maximum length in the call.
    """
    try:
        arguments: object = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        what = (
            "the maximum length cut these arguments" if is_cut else "these arguments are not JSON"
        )
        return f"{call.name}\n{call.arguments}\n({what})"
    return f"{call.name}\n{json.dumps(arguments, indent=2, ensure_ascii=False)}"


def logprobs_table(tokens: Sequence[TokenLogprob]) -> Grid:
    """A row for each token: its log-probability, and the likeliest tokens at its place."""
    table = Grid(
        Column("token", min_cells=8, by_words=False),
        Column("logprob", right=True),
        Column("%", right=True, drop=1),
        Column("likeliest", drop=2, min_cells=12, rare=True),
    )
    for token in tokens:
        table.add(
            token_text(token),
            _logprob(token),
            f"{100 * math.exp(token.logprob):.1f}" if token.HasField("logprob") else "",
            "  ".join(f"{token_text(one)} {_logprob(one)}" for one in token.top),
        )
    return table


def token_text(token: TokenLogprob) -> str:
    """The text of a token in quotes; bytes that are no text as such."""
    try:
        return json.dumps(token.bytes.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        return repr(token.bytes)


def _logprob(token: TokenLogprob) -> str:
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(token.logprob, 3) + 0:.3f}" if token.HasField("logprob") else ""
