"""Deadlines and metadata that the gateway allows."""

import pytest

from mlxmesh_gateway.limits import Deadlines, forwarded, places_per_caller


@pytest.mark.parametrize(
    ("remaining_s", "lasting", "expected_s"),
    [
        (None, False, 300),
        (None, True, 3600),
        (20.0, False, 20),
        (20.0, True, 20),
        (9999.0, False, 3600),
        (9999.0, True, 3600),
    ],
)
def test_a_deadline_is_the_clients_within_the_maximum(
    remaining_s: float | None, lasting: bool, expected_s: float
) -> None:
    deadlines = Deadlines(default_s=300, max_s=3600)

    assert deadlines.timeout_s(remaining_s, lasting=lasting) == expected_s


def test_the_default_deadline_never_exceeds_the_maximum() -> None:
    assert Deadlines(default_s=300, max_s=60).timeout_s(None) == 60


def test_only_listed_metadata_is_forwarded_in_order() -> None:
    metadata = [
        ("authorization", "secret"),
        ("traceparent", "00-aa-bb-01"),
        ("x-request-id", "r-1"),
        ("x-own", "1"),
    ]

    caller = ("mlxmesh-caller", "team-a")
    assert forwarded([*metadata, ("mlxmesh-caller", "other")], caller="team-a") == (
        ("traceparent", "00-aa-bb-01"),
        ("x-request-id", "r-1"),
        caller,
    )
    assert forwarded(None, caller="team-a") == (caller,)


def test_one_caller_leaves_an_eighth_of_the_places_to_others() -> None:
    assert places_per_caller(1024, None) == 896
    assert places_per_caller(1, None) == 1
    assert places_per_caller(1024, 3) == 3
