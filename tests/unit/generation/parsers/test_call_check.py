"""Whether the calls of an output parse."""

import pytest

from mlxmesh_generation.parsers.call_check import CallCheck
from mlxmesh_generation.parsers.part_reader import PartReader
from mlxmesh_generation.parsers.registry import TOOL_FORMATS

HERMES = TOOL_FORMATS["hermes"]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
BROKEN_ARGUMENTS = '<tool_call>\n{"name": "weather", "arguments": {"city": Oslo}}\n</tool_call>'
NO_CALL = "<tool_call>weather in Oslo</tool_call>"


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("output", "valid"),
    [
        ("It is cold.", None),
        (CALL, True),
        (f"Let me see. {CALL}{CALL}", True),
        (BROKEN_ARGUMENTS, False),
        (f"{CALL}{BROKEN_ARGUMENTS}", False),
        (NO_CALL, False),
        (CALL[:50], False),
    ],
)
def test_calls_that_do_not_parse_are_found_however_the_text_is_split(output, valid, size):
    reader = PartReader(HERMES.parser(()), "r-1", 0, call_markers=HERMES.markers)
    for start in range(0, len(output), size):
        reader.read(output[start : start + size])
    reader.flush()
    assert reader.calls_valid is valid


@pytest.mark.parametrize("arguments", ["[]", "1", '"x"', "", "[" * 100_000])
def test_arguments_must_be_an_object(arguments):
    check = CallCheck()
    check.begin()
    check.arguments(arguments)
    assert check.valid is False


def test_without_markers_text_is_text():
    check = CallCheck()
    check.text("<tool_call>")
    assert check.valid is None
