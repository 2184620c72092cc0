"""Names of tools for models."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_tools.domain.naming import MAX_CHARACTERS, function_name

SERVERS = st.from_regex(r"[a-z0-9]+([_-][a-z0-9]+)*", fullmatch=True).filter(
    lambda name: len(name) <= 32
)
TOOLS = st.text(min_size=1, max_size=128)


def test_a_legal_name_stays() -> None:
    assert function_name("files", "read_file") == "files__read_file"


@given(server=SERVERS, tool=TOOLS)
def test_every_name_is_legal_and_tells_its_server(server: str, tool: str) -> None:
    name = function_name(server, tool)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
    assert len(name) <= MAX_CHARACTERS
    assert name.partition("__")[0] == server


@given(server=SERVERS, one=TOOLS, other=TOOLS)
def test_two_tools_have_two_names(server: str, one: str, other: str) -> None:
    if one != other:
        assert function_name(server, one) != function_name(server, other)
