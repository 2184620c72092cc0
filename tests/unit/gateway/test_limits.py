"""Deadlines and metadata that the gateway allows."""

from dataclasses import replace

import pytest

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_gateway.door.limits import (
    HEDGE_MS,
    Deadlines,
    forwarded,
    hedge_after_s,
    places_per_caller,
)
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_shared.errors import InvalidArgument


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

    caller = Principal(
        kind=Kind.KEY,
        identity="key:k_1",
        role=Role.ROLE_ADMIN,
        claimed_name="team-a",
        host="10.0.0.1",
        user="ada",
        team="core",
        models=("qwen*", "llama"),
    )
    told = (
        ("mlxmesh-caller", "key:k_1"),
        ("mlxmesh-owner", "key:k_1#team-a"),
        ("mlxmesh-role", "admin"),
        ("mlxmesh-user", "ada"),
        ("mlxmesh-host", "10.0.0.1"),
        ("mlxmesh-team", "core"),
        ("mlxmesh-models", "qwen*,llama"),
    )
    off = ("mlxmesh-authentication", "off")
    forged = [off, *((name, "forged") for name, _ in told)]
    assert forwarded([*metadata, *forged], caller) == (("x-request-id", "r-1"), *told)
    assert forwarded(None, caller) == told
    assert forwarded(None, replace(caller, authentication_is_off=True)) == (*told, off)
    assert dict(forwarded(None, replace(caller, role=Role.ROLE_CLIENT)))["mlxmesh-role"] == "client"
    assert forwarded(forged, replace(caller, team="", models=())) == told[:-2]


@pytest.mark.parametrize("value", ["", "é", "a\tb", "a\n", "x" * 129, b"r-1"])
def test_an_illegal_request_id_is_not_forwarded(value: str | bytes) -> None:
    caller = Principal(kind=Kind.ANONYMOUS, identity="", role=Role.ROLE_ADMIN, host="h")
    assert "x-request-id" not in dict(forwarded([("x-request-id", value)], caller))
    assert dict(forwarded([("x-request-id", "x" * 128)], caller))["x-request-id"] == "x" * 128


def test_one_caller_leaves_an_eighth_of_the_places_to_others() -> None:
    assert places_per_caller(1024, None) == 896
    assert places_per_caller(1, None) == 1
    assert places_per_caller(1024, 3) == 3


@pytest.mark.parametrize(("asked", "expected_s"), [("1", 0.001), ("250", 0.25), ("60000", 60.0)])
def test_hedging_is_asked_for_in_milliseconds(asked: str, expected_s: float) -> None:
    assert hedge_after_s([("x-own", "1"), (HEDGE_MS, asked)]) == expected_s
    assert hedge_after_s([]) is None
    assert hedge_after_s(None) is None


@pytest.mark.parametrize(
    "asked",
    [
        "0",
        "60001",
        "-1",
        "1.5",
        "",
        "soon",
        "1e3",
        "\u0661",
        b"250",
        "1" + "0" * 40,
        "00060000000",
        "0" * 5000,
    ],
)
def test_an_illegal_hedge_is_refused_by_name(asked: str | bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        hedge_after_s([(HEDGE_MS, asked)])
    assert caught.value.field == HEDGE_MS
