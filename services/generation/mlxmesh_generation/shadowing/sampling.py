"""Which requests a shadow repeats. Pure."""

from hashlib import blake2b

from mlxmesh_generation.domain.routing import Shadow

_HASH_BYTES = 8
_ALL = 1 << (8 * _HASH_BYTES)


def takes(shadow: Shadow, request_id: str) -> bool:
    """Whether a request is in the shadow's sample; the same in every process."""
    digest = blake2b(
        request_id.encode(), key=shadow.shadow_id.encode()[:64], digest_size=_HASH_BYTES
    ).digest()
    return int.from_bytes(digest) < shadow.percent / 100 * _ALL
