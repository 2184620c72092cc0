"""The text of API keys: mm_PREFIX_SECRET, of which only the SHA-256 is stored."""

import hashlib
import secrets
from dataclasses import dataclass, field

SCHEME = "mm_"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX_CHARACTERS = 8
_SECRET_BYTES = 32
_SECRET_CHARACTERS = 43
"""The characters that _SECRET_BYTES need in base 62."""


@dataclass(frozen=True, slots=True)
class KeyText:
    """A new key."""

    key_id: str
    prefix: str
    """What may be displayed of the text."""
    text: str = field(repr=False)
    """A secret."""
    sha256: bytes = field(repr=False)


def new_key_text() -> KeyText:
    """A key that nobody can guess."""
    visible = "".join(secrets.choice(_DIGITS) for _ in range(_PREFIX_CHARACTERS))
    secret = to_base62(secrets.token_bytes(_SECRET_BYTES), _SECRET_CHARACTERS)
    text = f"{SCHEME}{visible}_{secret}"
    return KeyText(f"k_{visible}", SCHEME + visible, text, sha256_of(text))


def sha256_of(text: str) -> bytes:
    """What is stored of a key. No salt is needed: 32 random bytes are not in any dictionary."""
    return hashlib.sha256(text.encode()).digest()


def to_base62(value: bytes, characters: int) -> str:
    """A number in base 62, with zeros in front up to a length."""
    rest = int.from_bytes(value)
    digits = ""
    while rest:
        rest, digit = divmod(rest, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits.rjust(characters, _DIGITS[0])
