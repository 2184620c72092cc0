"""Digests of files and of the versions that consist of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

_READ_BYTES = 1024 * 1024


def digest_of(sha256_by_name: Mapping[str, str]) -> str:
    """The digest of a version: SHA-256 over the sorted lines `name sha256`, one per file."""
    lines = (f"{name} {digest}\n" for name, digest in sorted(sha256_by_name.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
