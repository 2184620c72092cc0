"""The kinds of models: the option `--kind`, and what is shown of those that encode."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mlxmesh.model.v1.model_pb2 import ModelKind, ModelVersion


class Kind(StrEnum):
    """What a model serves, as it is written in commands."""

    GENERATION = "generation"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    VISION = "vision"


KindOption = Annotated[
    Kind | None,
    typer.Option(help="What the model serves.  [default: as its files say]"),
]


def to_kind(kind: Kind | None) -> ModelKind.ValueType:
    """The kind in the contract; unspecified for None."""
    from mlxmesh.model.v1.model_pb2 import ModelKind

    return ModelKind.Value(f"MODEL_KIND_{kind.name if kind else 'UNSPECIFIED'}")


def is_encoder(version: ModelVersion) -> bool:
    """Whether it serves vectors or scores, so that no output of it is read."""
    return version.kind in (to_kind(Kind.EMBEDDING), to_kind(Kind.RERANK))


def kind_lines(version: ModelVersion) -> Iterator[str]:
    """The kind of a version that encodes."""
    if version.kind == to_kind(Kind.EMBEDDING):
        yield f"kind        embedding: vectors of {version.dimensions:,} components"
    else:
        yield "kind        rerank: the relevance of documents for a query"
    yield f"inputs      at most {version.context_tokens:,} tokens each"
