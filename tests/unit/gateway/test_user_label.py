"""The user that a request names, as a label."""

import pytest

from mlxmesh_gateway.http.user_label import add_user


@pytest.mark.parametrize(
    ("labels", "named", "label", "left_out"),
    [
        ({}, {}, None, []),
        ({}, {"user": None, "safety_identifier": ""}, None, []),
        ({}, {"user": "ada"}, "ada", []),
        ({}, {"user": "ada", "safety_identifier": "hash"}, "ada", []),
        ({}, {"user": None, "safety_identifier": "hash"}, "hash", []),
        ({"user": "own"}, {"user": "ada"}, "own", []),
        ({}, {"user": "x" * 256}, "x" * 256, []),
        ({}, {"user": "x" * 257}, None, ["user"]),
        ({str(number): "" for number in range(16)}, {"user": "ada"}, None, ["user"]),
    ],
)
def test_the_first_field_that_names_a_user_is_the_label(labels, named, label, left_out):
    assert add_user(labels, **named) == left_out
    assert labels.get("user") == label
