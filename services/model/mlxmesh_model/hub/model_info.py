"""Reads what the Hugging Face API tells of a model. Pure."""

import re
from collections.abc import Mapping
from typing import Any, cast

from huggingface_hub.hf_api import ModelInfo

from mlxmesh_model.hub.listing import (
    MAX_TAGS,
    ListedFile,
    Listing,
    parameters,
    weights_bytes,
)

_LICENCE = "license:"
_BITS_IN_NAME = re.compile(r"(?:^|[-_.])(\d{1,2})-?bit(?:$|[-_.])", re.I)
_MAX_TEXT = 200


def listing_of(info: ModelInfo) -> Listing:
    """The listing of a model; whatever is missing or of another type is left out."""
    untyped: Any = info
    config, gguf = _object(untyped.config), _object(untyped.gguf)
    elements = _elements(untyped.safetensors)
    bits = _bits(config, info.id)
    return Listing(
        repo_id=str(info.id),
        commit=info.sha or "",
        licence=_licence(info),
        gated=bool(info.gated),
        downloads=_count(info.downloads),
        likes=_count(info.likes),
        updated_at=info.last_modified,
        tags=tuple(map(_text, (info.tags or ())[:MAX_TAGS])),
        architecture=_text(config.get("model_type")),
        gguf_architecture=_text(gguf.get("architecture")),
        quantization=f"{bits}-bit" if bits else "",
        parameters=parameters(elements, bits) or _count(gguf.get("total")),
        weights_bytes=weights_bytes(elements),
        runs_code="auto_map" in config,
        files=tuple(
            ListedFile(each.rfilename, each.size if isinstance(each.size, int) else None)
            for each in info.siblings or ()
        ),
    )


def _elements(safetensors: Any) -> Mapping[str, int]:
    found = _object(safetensors.parameters if safetensors else None)
    return {dtype: count for dtype, count in found.items() if _count(count)}


def _bits(config: Mapping[str, Any], repo_id: str) -> int:
    """The bits of quantized weights, from the configuration or the name; 0 for others."""
    for key in ("quantization", "quantization_config"):
        bits = _object(config.get(key)).get("bits")
        if isinstance(bits, int) and 0 < bits <= 32:
            return bits
    named = _BITS_IN_NAME.search(repo_id.rpartition("/")[2])
    bits = int(named[1]) if named else 0
    return bits if bits < 16 else 0


def _licence(info: ModelInfo) -> str:
    for tag in info.tags or ():
        if tag.startswith(_LICENCE):
            return _text(tag.removeprefix(_LICENCE))
    return _text(getattr(info.card_data, "license", None))


def _count(value: object) -> int:
    """A number that is not negative; 0 for anything else."""
    return value if isinstance(value, int) and 0 <= value < 2**63 else 0


def _text(value: object) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
