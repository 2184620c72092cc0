"""The text of API keys."""

import hashlib
import re

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_access.accounts.key_text import new_key_text, to_base62

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_a_key_has_its_form_and_shows_only_its_prefix() -> None:
    key = new_key_text()
    assert re.fullmatch(r"mm_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}", key.text)
    assert key.prefix == key.text[:11]
    assert key.key_id == f"k_{key.prefix[3:]}"
    assert key.sha256 == hashlib.sha256(key.text.encode()).digest()
    assert key.text not in repr(key)


def test_no_two_keys_are_equal() -> None:
    assert len({new_key_text().text for _ in range(100)}) == 100


@given(st.binary(min_size=32, max_size=32))
def test_base62_keeps_every_bit(value: bytes) -> None:
    text = to_base62(value, 43)
    number = 0
    for digit in text:
        number = number * 62 + DIGITS.index(digit)
    assert len(text) == 43
    assert number.to_bytes(32) == value
