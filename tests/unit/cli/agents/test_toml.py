"""Edits of TOML keep comments and order."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_cli.agents.formats import UnusableFile
from mlxmesh_cli.agents.toml import Toml

FORM = Toml()

COMMENTED = """# My settings.
approval_policy = "on-request" # ask

[projects."/home/ada/x"]
trust_level = "trusted"

[mcp_servers.docs]
command = "docs"
args = ["--all"]
"""


def test_keys_at_the_top_go_before_the_tables() -> None:
    text = FORM.with_value(COMMENTED, ("model",), "qwen")
    assert tomllib.loads(text)["model"] == "qwen"
    assert text.index("model =") < text.index("[projects")
    assert COMMENTED.splitlines()[1] in text


def test_a_table_goes_behind_the_others() -> None:
    path = ("model_providers", "mlxmesh", "base_url")
    text = FORM.with_value(COMMENTED, path, "http://127.0.0.1:8051/v1")
    assert text.startswith(COMMENTED)
    assert "[model_providers.mlxmesh]\nbase_url" in text
    assert FORM.read(FORM.without(text, ("model_providers",))) == tomllib.loads(COMMENTED)


def test_only_the_value_is_replaced() -> None:
    text = FORM.with_value(COMMENTED, ("approval_policy",), "never")
    assert text == COMMENTED.replace("on-request", "never")


def test_from_nothing() -> None:
    text = FORM.with_value(FORM.with_value("", ("a",), 1), ("b", "c", "d"), True)
    assert tomllib.loads(text) == {"a": 1, "b": {"c": {"d": True}}}


@pytest.mark.parametrize("broken", ["a = ", "[a", "a = 1\na = 2", "= 1"])
def test_what_is_not_toml_is_refused(broken: str) -> None:
    with pytest.raises(UnusableFile, match="not TOML"):
        FORM.read(broken)


KEYS = st.text(alphabet="abc-_", min_size=1, max_size=4)
SCALARS = st.integers(-9, 9) | st.text(max_size=5) | st.booleans()


@given(
    st.dictionaries(KEYS, SCALARS, max_size=3),
    st.dictionaries(KEYS, SCALARS, min_size=1, max_size=3),
)
def test_setting_and_removing(top: dict[str, object], table: dict[str, object]) -> None:
    text = ""
    for key, value in top.items():
        text = FORM.with_value(text, (key,), value)
    for key, value in table.items():
        text = FORM.with_value(text, ("the table", key), value)
    assert tomllib.loads(text) == {**top, "the table": table}
    assert tomllib.loads(FORM.without(text, ("the table",))) == top
