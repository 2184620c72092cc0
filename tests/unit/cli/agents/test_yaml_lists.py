"""Edits of YAML change lines of one key or one named item, and leave the rest."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_cli.agents.formats import UnusableFile
from mlxmesh_cli.agents.yaml_lists import YamlLists

FORM = YamlLists()
ITEM = {"name": "mlxmesh", "provider": "openai", "model": "qwen", "roles": ["chat", "edit"]}
PATH = ("models", "mlxmesh")

COMMENTED = """# Mine.
name: Local
version: 1.0.0
schema: v1
models:
  # the big one
  - name: Claude
    provider: anthropic
    apiKey: ${{ secrets.KEY }} # not here
    roles:
      - chat
      - edit

# what I read
docs:
  - startUrl: https://example.com
"""


def test_an_item_goes_behind_the_last_one() -> None:
    text = FORM.with_value(COMMENTED, PATH, ITEM)
    assert "      - edit\n  - name: mlxmesh\n    provider: openai\n" in text
    assert [line for line in COMMENTED.splitlines() if line not in text.splitlines()] == []
    assert yaml.safe_load(text)["models"][-1] == ITEM


def test_what_was_added_can_be_taken_out_again() -> None:
    assert FORM.without(FORM.with_value(COMMENTED, PATH, ITEM), PATH) == COMMENTED


def test_an_item_is_replaced_in_its_place() -> None:
    text = FORM.with_value(COMMENTED, ("models", "Claude"), {"name": "Claude", "model": "x"})
    assert yaml.safe_load(text)["models"] == [{"name": "Claude", "model": "x"}]
    assert "# the big one\n  - name: Claude\n    model: x\n\n# what I read\n" in text


@pytest.mark.parametrize("empty", ["", "\n", "# only this\n", "---\n"])
def test_from_nothing(empty: str) -> None:
    text = FORM.with_value(FORM.with_value(empty, ("name",), "Mine"), PATH, ITEM)
    assert yaml.safe_load(text) == {"name": "Mine", "models": [ITEM]}
    assert text.startswith(empty)


@pytest.mark.parametrize(
    "none", ["models:\nname: x\n", "models: []\nname: x\n", "name: x\nmodels:"]
)
def test_a_list_without_items(none: str) -> None:
    text = FORM.with_value(none, PATH, ITEM)
    assert yaml.safe_load(text) == {"name": "x", "models": [ITEM]}
    removed = FORM.without(text, PATH)
    assert yaml.safe_load(removed) == {"name": "x", "models": []}


def test_items_that_are_not_indented_stay_so() -> None:
    text = FORM.with_value("models:\n- name: a\n  model: b", PATH, ITEM)
    assert text.startswith("models:\n- name: a\n  model: b\n- name: mlxmesh\n  provider")


def test_texts_of_several_lines() -> None:
    before = "models:\n  - name: a\n    prompt: |\n      one\n      two\nx: 1\n"
    text = FORM.with_value(before, PATH, ITEM)
    assert FORM.without(text, PATH) == before
    assert yaml.safe_load(text)["models"] == [{"name": "a", "prompt": "one\ntwo\n"}, ITEM]


def test_a_list_in_brackets_is_left_to_its_owner() -> None:
    with pytest.raises(UnusableFile, match="brackets"):
        FORM.with_value("models: [{name: a}]\n", PATH, ITEM)


@pytest.mark.parametrize("broken", ["a: b: c", "- a", "{a: 1}", "a: 1\n---\nb: 2\n", "text"])
def test_what_cannot_be_edited_is_refused(broken: str) -> None:
    with pytest.raises(UnusableFile, match=r"YAML|mapping"):
        FORM.with_value(broken, PATH, ITEM)


NAMES = st.text(alphabet="ab 1:#-", min_size=1, max_size=5)
ITEMS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES},
        optional={"x": st.text(max_size=12), "y": st.lists(st.text(max_size=3), max_size=2)},
    ),
    max_size=3,
    unique_by=lambda one: str(one["name"]),
)


@given(ITEMS, st.booleans(), st.sampled_from(["", "\n", "# end\n", "\nlast: 1\n"]))
def test_removing_undoes_adding(items: list[dict[str, Any]], indented: bool, tail: str) -> None:
    written = yaml.safe_dump({"models": items}, sort_keys=False, allow_unicode=True)
    if indented and items:
        head, *lines = written.splitlines(keepends=True)
        written = head + "".join(f"  {line}" for line in lines)
    if not isinstance(yaml.safe_load(written), dict) or yaml.safe_load(written)["models"] != items:
        return
    text = written + tail
    added = FORM.with_value(text, PATH, ITEM)
    assert yaml.safe_load(added)["models"] == [*items, ITEM]
    if items:
        assert FORM.without(added, PATH) == text
