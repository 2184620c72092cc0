"""Encryption of what the database must hold but a copy of it must not reveal."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from mlxmesh_shared.errors import IllegalState

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEY_BYTES = 32
_MODE = 0o600


class Cipher:
    """Authenticated encryption with a key that is derived from a secret for one purpose.

    Source: RFC 5869 (HKDF), and Fernet of the library `cryptography`.
    """

    def __init__(self, secret: bytes, purpose: str) -> None:
        self._fernet = _fernet(secret, purpose)

    def encrypt(self, content: bytes) -> bytes:
        """The encrypted content, different each time."""
        return self._fernet.encrypt(content)

    def decrypt(self, encrypted: bytes) -> bytes | None:
        """The content; None if it was changed, or encrypted with another secret."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(encrypted)
        except InvalidToken:
            return None


def _fernet(secret: bytes, purpose: str) -> Fernet:
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derivation = HKDF(SHA256(), length=32, salt=None, info=f"mlxmesh {purpose}".encode())
    return Fernet(base64.urlsafe_b64encode(derivation.derive(secret)))


def load_or_create_secret(path: Path) -> bytes:
    """The secret in a file that only its owner can read; created with the first call.

    Raises: IllegalState for a file that others can read, or that contains something else.
    """
    try:
        if not path.exists():
            _create(path)
        return _read(path)
    except OSError as error:
        raise IllegalState(f"{path} cannot be used: {error.strerror}") from error


def _create(path: Path) -> None:
    """Another process may create the file meanwhile; the first one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(partial)
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise IllegalState(f"{path} can be read by other users: chmod 600 {path}")
        content = file.read(1024)
    try:
        secret = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise IllegalState(
            f"{path} is damaged: restore it, or remove it to begin with new signing keys"
        )
    return secret
