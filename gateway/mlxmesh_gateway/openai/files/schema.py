"""The form of POST /v1/files, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mlxmesh_gateway.http.schema import Schema


class FileForm(Schema):
    """A file to store."""

    purpose: Literal["batch", "user_data"]
    file: Annotated[Any, Field(json_schema_extra={"type": "string", "format": "binary"})]
    expires_after_anchor: Annotated[
        Literal["created_at"] | None, Field(alias="expires_after[anchor]")
    ] = None
    expires_after_seconds: Annotated[
        int | None, Field(alias="expires_after[seconds]", ge=3_600, le=2_592_000)
    ] = None
