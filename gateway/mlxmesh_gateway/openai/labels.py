"""OpenAI's metadata as labels. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mlxmesh.generation.v1 import generation_pb2 as pb

MAX_LABELS = 16
_LEGAL_KEY = re.compile(r"[a-z0-9_.-]{1,64}")
_MAX_VALUE = 256


def add_metadata(generation: pb.GenerateRequest, metadata: Mapping[str, str] | None) -> list[str]:
    """Adds the metadata that can be labels; labels of the request come first.

    Returns: the paths of the other metadata.
    """
    left_out: list[str] = []
    labels = generation.labels
    for key, value in (metadata or {}).items():
        if key in labels:
            continue
        if _LEGAL_KEY.fullmatch(key) and len(value) <= _MAX_VALUE and len(labels) < MAX_LABELS:
            labels[key] = value
        else:
            left_out.append(f"metadata.{key}")
    return left_out
