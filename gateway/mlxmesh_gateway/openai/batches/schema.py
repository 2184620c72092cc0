"""The request of POST /v1/batches, and how each of its fields is handled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mlxmesh_gateway.http.schema import Refused, Schema
from mlxmesh_gateway.openai.schema import Metadata

WINDOW = "24h"
"""OpenAI's only one."""
_ENDPOINTS = "/v1/chat/completions, /v1/completions, /v1/responses or /v1/embeddings"


class BatchRequest(Schema):
    """The requests of a file to run."""

    input_file_id: Annotated[str, Field(json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,64}$"})]
    endpoint: Annotated[str, Field(description=f"{_ENDPOINTS}.")]
    completion_window: Annotated[str, Field(json_schema_extra={"const": WINDOW})]
    metadata: Metadata | None = None
    output_expires_after: Annotated[
        Any, Refused("the files of a batch are kept for 30 days after its end")
    ] = None
