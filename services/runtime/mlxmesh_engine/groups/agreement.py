"""What all ranks must have in common before they compute together: exchanged on the ring."""

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from mlxmesh_engine.groups.layer_shares import shares_of_all
from mlxmesh_engine.groups.ring import Ring, all_gather
from mlxmesh_shared.errors import InvalidArgument

_EDGE_BYTES = 2**16
_WORD_BYTES = 4


def check_equal(ring: Ring, what: str, value: str) -> None:
    """Raises: InvalidArgument, on every rank, if a rank has another value than rank 0."""
    digest = hashlib.sha256(value.encode()).digest()
    words = [
        int.from_bytes(digest[at : at + _WORD_BYTES], "big")
        for at in range(0, len(digest), _WORD_BYTES)
    ]
    first, *others = _gathered(ring, words)
    different = [str(rank) for rank, other in enumerate(others, 1) if other != first]
    if different:
        raise InvalidArgument(
            f"{what} of rank {', '.join(different)} differs from that of rank 0; all ranks of a "
            "group need the same",
            field="group_size",
        )


def smallest(ring: Ring, value: int) -> int:
    """Of the values of all ranks, each below 2^62."""
    high, low = divmod(value, 2**31)
    return min(high * 2**31 + low for high, low in _gathered(ring, [high, low]))


def agreed_shares(ring: Ring, own_ppm: int) -> list[int]:
    """The shares of all ranks, by rank, in millionths; rank 0 has what the others leave.

    own_ppm: of this rank; 0 for an equal one. Raises: InvalidArgument, on every rank.
    """
    return shares_of_all([share for [share] in _gathered(ring, [own_ppm])[1:]])


def _gathered(ring: Ring, words: list[int]) -> list[list[int]]:
    rows = all_gather(mx.array([words], mx.uint32), ring)
    return cast("list[list[int]]", cast("Any", rows).tolist())


def files_digest(model_dir: Path) -> str:
    """Identifies a model's files without reading all of them: names, sizes, beginnings and ends."""
    digest = hashlib.sha256()
    for part in _parts(model_dir):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def software() -> str:
    return f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, mlxmesh {version('mlxmesh')}"


def _parts(model_dir: Path) -> Iterator[bytes]:
    yield (model_dir / "config.json").read_bytes()
    for path in sorted(model_dir.glob("*.safetensors")):
        size = path.stat().st_size
        yield f"{path.name} {size}".encode()
        with path.open("rb") as file:
            yield file.read(_EDGE_BYTES)
            file.seek(max(0, size - _EDGE_BYTES))
            yield file.read(_EDGE_BYTES)
