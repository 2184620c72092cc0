"""Converts between OpenAI's files and FileService's messages."""

from __future__ import annotations

from collections.abc import Mapping

from mlxmesh.job.v1 import file_pb2 as pb
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

JsonObject = dict[str, object]
_NAMES = {
    pb.FILE_PURPOSE_BATCH: "batch",
    pb.FILE_PURPOSE_BATCH_OUTPUT: "batch_output",
    pb.FILE_PURPOSE_USER_DATA: "user_data",
    pb.FILE_PURPOSE_JOB_OUTPUT: "job_output",
}
_UPLOADED = {"batch": pb.FILE_PURPOSE_BATCH, "user_data": pb.FILE_PURPOSE_USER_DATA}
_OTHERS = ("assistants", "evals", "fine-tune", "vision")
"""OpenAI's purposes that nothing here has a use for."""
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
MIN_EXPIRY_S, MAX_EXPIRY_S = 3_600, 2_592_000
"""OpenAI's."""


def uploaded_purpose(name: str) -> pb.FilePurpose.ValueType:
    """Raises: InvalidArgument, FeatureNotSupported."""
    if name in _UPLOADED:
        return _UPLOADED[name]
    if name in _OTHERS:
        raise FeatureNotSupported(
            f"purpose {name} is not supported: batch and user_data are", field="purpose"
        )
    raise InvalidArgument("purpose must be batch or user_data", field="purpose")


def listed_purpose(name: str) -> pb.FilePurpose.ValueType:
    """Which files to list. Raises: InvalidArgument."""
    for number, known in _NAMES.items():
        if known == name:
            return number
    names = ", ".join(_NAMES.values())
    raise InvalidArgument(f"purpose must be one of {names}", field="purpose")


def expires_after_s(fields: Mapping[str, str]) -> int:
    """How long an upload is kept; 0 for the default. Raises: InvalidArgument."""
    anchor, seconds = fields.get(_ANCHOR), fields.get(_SECONDS)
    if anchor is None and seconds is None:
        return 0
    if anchor != "created_at":
        raise InvalidArgument(f"{_ANCHOR} must be created_at", field=_ANCHOR)
    digits = seconds or ""
    legal = digits.isascii() and digits.isdigit() and len(digits) <= 9
    if not legal or not MIN_EXPIRY_S <= int(digits) <= MAX_EXPIRY_S:
        raise InvalidArgument(
            f"{_SECONDS} must be a whole number from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}",
            field=_SECONDS,
        )
    return int(digits)


def file_object(file: pb.File) -> JsonObject:
    """A file as OpenAI shows it."""
    shown: JsonObject = {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.create_time.seconds,
        "filename": file.name,
        "purpose": _NAMES.get(file.purpose, "user_data"),
        "status": "processed" if file.complete else "uploaded",
        "status_details": None,
    }
    expires = file.expire_time.seconds if file.HasField("expire_time") else None
    return {**shown, "expires_at": expires}
