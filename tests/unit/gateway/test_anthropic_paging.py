"""Pages of lists: every item once, in both directions."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_gateway.anthropic.paging import Query, page_of, read_query
from mlxmesh_shared.errors import InvalidArgument

NAMES = st.lists(st.text(min_size=1), unique=True).map(sorted)


@given(NAMES, st.integers(1, 5))
def test_pages_forward_hold_every_item_once(names: list[str], limit: int) -> None:
    found: list[str] = []
    page = page_of(names, Query(limit=limit))
    while page.has_more:
        found += page.ids
        page = page_of(names, Query(limit=limit, after_id=found[-1]))
    assert [*found, *page.ids] == names


@given(NAMES.filter(len), st.integers(1, 5))
def test_pages_backward_hold_every_item_once(names: list[str], limit: int) -> None:
    found = [names[-1]]
    more = True
    while more:
        page = page_of(names, Query(limit=limit, before_id=found[0]))
        found, more = [*page.ids, *found], page.has_more
    assert found == names


def test_an_id_that_is_gone_has_its_place() -> None:
    assert page_of(["a", "c"], Query(after_id="b")).ids == ["c"]
    assert page_of(["a", "c"], Query(before_id="b")).ids == ["a"]


def test_a_query_is_read() -> None:
    query, unknown = read_query(b"limit=7&after_id=a%3Ab&x=1&beta=true&lifecycle[]=active")
    assert (query, unknown) == (Query(limit=7, after_id="a:b"), ["x"])
    assert read_query(b"") == (Query(), [])


def test_the_mesh_has_models_in_use_only() -> None:
    query, _ = read_query(b"lifecycle[]=retired&lifecycle[]=deprecated")
    assert page_of(["a"], query).ids == []
    query, _ = read_query(b"lifecycle=retired&lifecycle=active")
    assert page_of(["a"], query).ids == ["a"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (b"limit=0", "limit"),
        (b"limit=1001", "limit"),
        (b"limit=", "limit"),
        (b"limit=-1", "limit"),
        (b"limit=1e2", "limit"),
        ("limit=٣".encode(), "limit"),
        (b"limit=" + b"9" * 5000, "limit"),
        (b"before_id=a&after_id=b", "before_id"),
        (b"&".join([b"a=1"] * 30), "limit"),
    ],
)
def test_an_illegal_query_is_an_error_that_names_the_parameter(query: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read_query(query)
    assert raised.value.field == field


@given(st.binary(max_size=60))
def test_any_bytes_are_a_query_or_an_error(query: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        assert 1 <= read_query(query)[0].limit <= 1000
