"""A model of a hub as this mesh shows it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

MAX_TAGS = 50


class Sort(StrEnum):
    """The order of a search, as the hub names it."""

    TREND = "trendingScore"
    DOWNLOADS = "downloads"
    LIKES = "likes"
    UPDATED = "lastModified"


class Format(StrEnum):
    """Which models a search finds, as the hub tags them."""

    MLX = "mlx"
    GGUF = "gguf"
    ALL = ""


@dataclass(frozen=True, slots=True)
class Query:
    """What to search; `cursor` is that of the page before."""

    text: str = ""
    author: str = ""
    sort: Sort = Sort.TREND
    format: Format = Format.MLX
    limit: int = 20
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a repository; the size is None where the hub does not tell it."""

    name: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A model as its hub describes it; what the hub does not tell is empty or 0."""

    repo_id: str
    commit: str = ""
    licence: str = ""
    gated: bool = False
    downloads: int = 0
    likes: int = 0
    updated_at: datetime | None = None
    tags: Sequence[str] = ()
    architecture: str = ""
    gguf_architecture: str = ""
    quantization: str = ""
    parameters: int = 0
    weights_bytes: int = 0
    runs_code: bool = False
    """Whether its configuration names code of its own, which is never run."""
    files: Sequence[ListedFile] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a search; the cursor is empty on the last one."""

    listings: Sequence[Listing]
    cursor: str = ""


DTYPE_BYTES: Mapping[str, float] = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL", "F8_E8M0"), 1),
    "F4": 0.5,
}
"""Bytes of an element of a safetensors file."""


def weights_bytes(elements: Mapping[str, int]) -> int:
    """The size of weights, from their elements by type; 0 if a type is unknown."""
    if not elements.keys() <= DTYPE_BYTES.keys():
        return 0
    return round(sum(count * DTYPE_BYTES[dtype] for dtype, count in elements.items()))


def parameters(elements: Mapping[str, int], bits: int) -> int:
    """The parameters before quantization: a packed word of 32 bits has 32 / bits of them."""
    packed = elements.get("U32", 0)
    if packed and bits:
        return packed * 32 // bits
    return sum(elements.values())
