"""Page tokens lead to the position that they were made of, and nothing else is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.page_tokens import from_page_token, to_page_token

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
PARTS = st.one_of(TEXTS, st.integers(-(2**63) + 1, 2**63 - 1))


@given(st.lists(PARTS, max_size=4))
def test_a_token_leads_to_its_position(position: list[str | int]) -> None:
    assert from_page_token(to_page_token(position), tuple(position)) == tuple(position)


def test_an_empty_token_is_the_first_page() -> None:
    assert from_page_token("", ("", 7)) == ("", 7)


@pytest.mark.parametrize(
    ("position", "first"),
    [(["a"], (0,)), ([1], ("",)), ([1, 2], (0,)), ([], (0,)), ([2**63], (0,)), (["\0"], ("",))],
)
def test_a_token_of_another_list_is_refused(
    position: list[str | int], first: tuple[str | int, ...]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_page_token(to_page_token(position), first)
    assert caught.value.field == "page_token"


@given(st.text(max_size=256))
def test_any_other_text_is_refused(token: str) -> None:
    if not token:
        return
    with pytest.raises(InvalidArgument):
        from_page_token(token, ("",))
