"""JSON of others: what is read, and what is refused before it costs anything."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_shared.host.json_file import MAX_DEPTH, UnusableJson, read_json_object


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    return path


def nested(depth: int) -> bytes:
    return b'{"a": ' * depth + b"1" + b"}" * depth


def test_an_object_at_the_bounds(tmp_path: Path) -> None:
    assert read_json_object(written(tmp_path, nested(MAX_DEPTH)))
    assert read_json_object(written(tmp_path, b'{"a": %s}' % (b"9" * 32)))["a"] == 10**32 - 1
    assert read_json_object(written(tmp_path, b'{"a": [Infinity, 1e400]}'))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not JSON"),
        (b"[]", "must hold a JSON object"),
        (b"\xff\xfe", "is not JSON"),
        (nested(MAX_DEPTH + 1), "is nested more than 64 deep"),
        (b'{"a": -%s}' % (b"9" * 33), "has a number of more than 32 digits"),
        (b'{"a": %s}' % (b"9" * 5000), "has a number of more than 32 digits"),
        (b" " * (4 * 2**20 + 1), "is larger than 4 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(UnusableJson, match=why):
        read_json_object(written(tmp_path, content))


@given(st.binary(max_size=64))
def test_any_bytes_are_an_object_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    with suppress(UnusableJson):
        assert isinstance(read_json_object(written(tmp_path_factory.getbasetemp(), content)), dict)
