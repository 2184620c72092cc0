"""Attributes as people and labels read them."""

import pytest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    KeyValue,
    KeyValueList,
)

from mlxmesh_gateway.otlp.messages import text

STOP, LENGTH = AnyValue(string_value="stop"), AnyValue(string_value="length")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (AnyValue(), ""),
        (AnyValue(bool_value=True), "true"),
        (AnyValue(bytes_value=b"\xff"), "ff"),
        (AnyValue(double_value=0.5), "0.5"),
        (AnyValue(array_value=ArrayValue(values=[STOP])), "stop"),
        (AnyValue(array_value=ArrayValue(values=[STOP, LENGTH])), "stop,length"),
        (
            AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="a", value=STOP)])),
            "a=stop",
        ),
    ],
)
def test_a_value_is_text(value: AnyValue, expected: str) -> None:
    assert text(value) == expected
