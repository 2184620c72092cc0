"""Tables of vectors and of ranked documents. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlxmesh_cli.screen.grid import Column, Grid

SHOWN_COMPONENTS = 4
MIN_TEXT_CELLS = 20


def vectors_table(texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> Grid:
    """One row per text: the cosine to the first text, and the first components."""
    table = Grid(
        Column("text", min_cells=MIN_TEXT_CELLS),
        Column("cosine", right=True),
        Column("vector", drop=1),
    )
    for text, vector in zip(texts, vectors, strict=True):
        shown = " ".join(f"{each:+.4f}" for each in vector[:SHOWN_COMPONENTS])
        more = " ..." if len(vector) > SHOWN_COMPONENTS else ""
        table.add(_line(text), f"{cosine(vectors[0], vector):.4f}", f"{shown}{more}")
    return table


def ranking_table(documents: Sequence[str], results: Sequence[tuple[int, float]]) -> Grid:
    """One row per result: its score, its number from 1 on, and its text."""
    table = Grid(
        Column("score", right=True),
        Column("line", right=True),
        Column("document", min_cells=MIN_TEXT_CELLS),
    )
    for index, score in results:
        table.add(f"{score:.4f}", str(index + 1), _line(documents[index]))
    return table


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """The cosine of the angle between two vectors; 0 for one without a direction."""
    lengths = math.hypot(*first) * math.hypot(*second)
    product = sum(one * other for one, other in zip(first, second, strict=True))
    return product / lengths if lengths else 0.0


def _line(text: str) -> str:
    return " ".join(text.split())
