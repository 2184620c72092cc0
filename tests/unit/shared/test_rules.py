"""Every kind of rule, at its edges, on a contract made for this test."""

import math
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from mlxmesh.common.v1 import rules_pb2
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.rules import Validator, describe
from mlxmesh_shared.rules.words import form_words

assert rules_pb2  # its options must be known before a descriptor that uses them is read

_SCALARS = {"int32": "TYPE_INT32", "float": "TYPE_FLOAT", "double": "TYPE_DOUBLE"}
_SCALARS |= {"string": "TYPE_STRING", "bytes": "TYPE_BYTES", "uint64": "TYPE_UINT64"}


def field(number: int, name: str, kind: str, rules: str = "", **more: str) -> str:
    """The text of one FieldDescriptorProto."""
    base = more.pop("type_name", "")
    shape = f"type: {_SCALARS[kind]}" if kind in _SCALARS else f'type: {kind} type_name: "{base}"'
    label = more.pop("label", "LABEL_OPTIONAL")
    extra = " ".join(f"{key}: {value}" for key, value in more.items())
    option = f"options {{ [mlxmesh.common.v1.rules] {{ {rules} }} }}" if rules else ""
    return f'field {{ name: "{name}" number: {number} label: {label} {shape} {extra} {option} }}'


def entry(name: str, key: str, value: str) -> str:
    fields = field(1, "key", key) + field(2, "value", value)
    return f'nested_type {{ name: "{name}" {fields} options {{ map_entry: true }} }}'


LIST = {"label": "LABEL_REPEATED"}
OPTIONAL = {"proto3_optional": "true"}
NODE = {"type_name": ".rulestest.Node"}
_FILE = f"""
name: "rulestest.proto" package: "rulestest" syntax: "proto3"
dependency: "mlxmesh/common/v1/rules.proto"
enum_type {{
  name: "Color" value {{ name: "COLOR_UNSPECIFIED" number: 0 }} value {{ name: "RED" number: 1 }}
}}
message_type {{
  name: "Node"
  {field(1, "name", "string", "max_length: 3")}
  {field(2, "children", "TYPE_MESSAGE", **NODE, **LIST)}
  {field(3, "weight", "double")}
}}
message_type {{
  name: "Request"
  {field(1, "closed", "int32", "gte: -2 lte: 2")}
  {field(2, "open", "float", "gt: 0.1 lt: 0.7", **OPTIONAL, oneof_index="1")}
  {field(3, "text", "string", 'min_length: 2 max_length: 4 pattern: "[a-zé]+"', oneof_index="0")}
  {field(4, "data", "bytes", "max_length: 2")}
  {field(5, "needed_text", "string", "required: true", **OPTIONAL, oneof_index="2")}
  {field(6, "color", "TYPE_ENUM", type_name=".rulestest.Color")}
  {field(7, "needed_color", "TYPE_ENUM", "required: true", type_name=".rulestest.Color")}
  {field(8, "words", "string", "min_items: 1 max_items: 2 min_length: 1", **LIST)}
  {field(9, "node", "TYPE_MESSAGE", "required: true", **NODE)}
  {field(10, "later", "TYPE_MESSAGE", "unsupported: true", **NODE)}
  {field(11, "later_number", "int32", "unsupported: true")}
  {field(12, "later_text", "string", "unsupported: true", oneof_index="0")}
  {
    field(
        13,
        "bias",
        "TYPE_MESSAGE",
        "max_items: 2 gte: -1 lte: 1 key_gte: 0 key_lte: 9",
        type_name=".rulestest.Request.BiasEntry",
        **LIST,
    )
}
  {
    field(
        14,
        "labels",
        "TYPE_MESSAGE",
        'key_pattern: "[a-z]+" max_length: 3',
        type_name=".rulestest.Request.LabelsEntry",
        **LIST,
    )
}
  {field(15, "nodes", "TYPE_MESSAGE", type_name=".rulestest.Request.NodesEntry", **LIST)}
  {field(16, "floats", "float", **LIST)}
  {field(17, "form", "string", 'pattern: "[0-9]+"')}
  {field(18, "big", "uint64", "lte: 1000000")}
  {field(19, "copies", "int32", "gte: 1", **OPTIONAL, oneof_index="3")}
  {entry("BiasEntry", "int32", "float")}
  {entry("LabelsEntry", "string", "string")}
  nested_type {{
    name: "NodesEntry" {field(1, "key", "int32")} {field(2, "value", "TYPE_MESSAGE", **NODE)}
    options {{ map_entry: true }}
  }}
  oneof_decl {{
    name: "input" options {{ [mlxmesh.common.v1.oneof_rules] {{ required: true }} }}
  }}
  oneof_decl {{ name: "_open" }}
  oneof_decl {{ name: "_needed_text" }}
  oneof_decl {{ name: "_copies" }}
}}
message_type {{ name: "AtLeastOne" {field(1, "count", "int32", "gte: 1")} }}
"""


def _load() -> dict[str, Any]:
    pool = descriptor_pool.Default()
    pool.Add(text_format.Parse(_FILE, descriptor_pb2.FileDescriptorProto()))
    names = ("Request", "Node", "AtLeastOne")
    find = pool.FindMessageTypeByName
    return {n: message_factory.GetMessageClass(find(f"rulestest.{n}")) for n in names}


MESSAGES = _load()
VALIDATOR = Validator.from_files([MESSAGES["Request"].DESCRIPTOR.file])


def request(**changes: Any) -> Any:
    legal: dict[str, Any] = {
        "text": "abc",
        "needed_text": "x",
        "needed_color": 1,
        "words": ["a"],
        "node": MESSAGES["Node"](),
    }
    return MESSAGES["Request"](**legal | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"closed": -2},
        {"closed": 2},
        {"open": 0.5},
        {"text": "éé"},
        {"text": "abcd"},
        {"data": b"ab"},
        {"color": 1},
        {"words": ["a", "b"]},
        {"bias": {0: -1.0, 9: 1.0}},
        {"labels": {"a": "xyz"}},
        {"floats": [1.5, -1e38]},
        {"form": ""},
        {"form": "12"},
        {"big": 1_000_000},
        {"copies": 1},
        {"node": {"children": [{"children": [{"name": "abc"}]}]}},
    ],
)
def test_legal(changes: dict[str, Any]) -> None:
    VALIDATOR.check(request(**changes))


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"closed": -3}, "closed", "-2 to 2"),
        ({"closed": 3}, "closed", "-2 to 2"),
        # The nearest float32 is a little above 0.1, and so is the bound.
        ({"open": 0.1}, "open", "above 0.1 and below 0.7"),
        ({"open": 0.7}, "open", "above 0.1 and below 0.7"),
        ({"open": math.nan}, "open", "above 0.1"),
        ({"open": math.inf}, "open", "above 0.1"),
        ({"text": "a"}, "text", "2 to 4 long"),
        ({"text": "abcde"}, "text", "2 to 4 long"),
        ({"text": "ABC"}, "text", "must match [a-zé]+"),
        ({"text": "abc\n"}, "text", "must match"),
        ({"data": b"abc"}, "data", "at most 2 long"),
        ({"needed_text": ""}, "needed_text", "must not be empty"),
        ({"needed_text": None}, "needed_text", "is required"),
        ({"color": 7}, "color", "values of Color"),
        ({"needed_color": 0}, "needed_color", "is required"),
        ({"needed_color": 7}, "needed_color", "values of Color"),
        ({"words": []}, "words", "must have 1 to 2 elements"),
        ({"words": ["a", "b", "c"]}, "words", "1 to 2 elements"),
        ({"words": ["a", ""]}, "words[1]", "at least 1 long"),
        ({"node": None}, "node", "is required"),
        ({"node": {"name": "abcd"}}, "node.name", "at most 3 long"),
        ({"node": {"children": [{}, {"name": "abcd"}]}}, "node.children[1].name", "at most 3"),
        ({"node": {"weight": -math.inf}}, "node.weight", "finite number"),
        ({"bias": {1: 2.0}}, "bias[1]", "-1 to 1"),
        ({"bias": {1: math.nan}}, "bias[1]", "-1 to 1"),
        ({"bias": {10: 0.0}}, "bias[10]", "has a key that is not 0 to 9"),
        ({"bias": {-1: 0.0}}, "bias[-1]", "has a key that is not 0 to 9"),
        ({"bias": {1: 0.0, 2: 0.0, 3: 0.0}}, "bias", "at most 2 elements"),
        ({"labels": {"secret key": "a"}}, "labels[*]", "has a key that is not matching `[a-z]+`"),
        ({"labels": {"a": "abcd"}}, "labels[*]", "at most 3 long"),
        ({"nodes": {5: {"name": "abcd"}}}, "nodes[5].name", "at most 3 long"),
        ({"floats": [1.0, math.nan]}, "floats[1]", "finite number"),
        ({"form": "x"}, "form", "must match [0-9]+"),
        ({"form": "١"}, "form", "must match [0-9]+"),
        ({"big": 1_000_001}, "big", "at most 1000000"),
        ({"copies": 0}, "copies", "at least 1"),
        ({"text": None}, "input", "is required: set text or later_text"),
    ],
)
def test_illegal(changes: dict[str, Any], path: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        VALIDATOR.check(request(**changes))

    assert caught.value.field == path
    assert says in caught.value.message
    assert caught.value.message.startswith(path)
    assert "secret" not in caught.value.message
    assert type(caught.value) is InvalidArgument


@pytest.mark.parametrize(
    "changes",
    [{"later": {}}, {"later_number": 1}, {"text": None, "later_text": ""}],
)
def test_unsupported_is_never_ignored(changes: dict[str, Any]) -> None:
    with pytest.raises(FeatureNotSupported) as caught:
        VALIDATOR.check(request(**changes))

    assert caught.value.field in changes
    assert caught.value.reason == "FEATURE_NOT_SUPPORTED"


def test_a_number_without_presence_is_checked_when_it_is_zero() -> None:
    with pytest.raises(InvalidArgument, match="count must be at least 1"):
        VALIDATOR.check(MESSAGES["AtLeastOne"]())


def test_types_without_rules_pass() -> None:
    VALIDATOR.check(descriptor_pb2.FileDescriptorProto(name="x"))


def test_deep_nesting_is_walked() -> None:
    node = MESSAGES["Node"](name="abcd")
    for _ in range(50):
        node = MESSAGES["Node"](children=[node])

    with pytest.raises(InvalidArgument) as caught:
        VALIDATOR.check(request(node=node))

    assert caught.value.field.count("children[0]") == 50


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("closed", "-2 to 2"),
        ("open", "above 0.1 and below 0.7"),
        ("text", "2 to 4 long; matches `[a-zé]+`"),
        ("needed_text", "required"),
        ("words", "at least 1 long; 1 to 2 elements"),
        ("later", "not supported yet"),
        ("bias", "-1 to 1; at most 2 elements; keys 0 to 9"),
        ("labels", "at most 3 long; keys matching `[a-z]+`"),
        ("copies", "at least 1"),
        ("color", ""),
    ],
)
def test_describe(name: str, words: str) -> None:
    assert describe(MESSAGES["Request"].DESCRIPTOR.fields_by_name[name]) == words


def test_a_pattern_of_words_is_told_as_a_list() -> None:
    assert form_words("auto|mlx|8bit") == "must be one of auto, mlx, 8bit"
    assert form_words("[a-z]|mlx") == "must match [a-z]|mlx"
