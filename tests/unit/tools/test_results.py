"""Results within their limit."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_tools.domain.results import bounded_result

TEXTS = st.text(max_size=3000)
BLOCKS = st.lists(
    st.one_of(
        TEXTS.map(lambda text: {"type": "text", "text": text}),
        TEXTS.map(lambda data: {"type": "image", "data": data, "mimeType": "image/png"}),
    ),
    max_size=5,
)


@given(blocks=BLOCKS, max_bytes=st.integers(1024, 5000))
def test_a_result_is_at_most_as_large_as_allowed(
    blocks: list[dict[str, Any]], max_bytes: int
) -> None:
    result = bounded_result(blocks, None, is_error=False, max_bytes=max_bytes)
    kept = json.loads(result.content)
    assert len(result.content.encode()) <= max_bytes + 300
    if not result.truncated:
        assert kept == blocks
    else:
        assert "cut off here" in kept[-1]["text"]


def test_structured_content_that_is_too_large_is_left_out_whole() -> None:
    result = bounded_result([], {"a": "x" * 5000}, is_error=False, max_bytes=1024)
    assert (result.structured, result.truncated) == ("", True)


def test_other_blocks_are_named_in_the_text() -> None:
    blocks = [
        {"type": "text", "text": "see"},
        {"type": "image", "data": "AA", "mimeType": "image/png"},
        {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
    ]
    result = bounded_result(blocks, None, is_error=False, max_bytes=4096)
    assert result.text == "see\n[image image/png]\ninside"
