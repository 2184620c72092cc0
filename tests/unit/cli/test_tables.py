"""What people read of the instances of a mesh."""

from __future__ import annotations

from typing import Any

import pytest

from mlxmesh_cli.tables import instances_table

ENGINE: dict[str, Any] = {
    "service": "engine",
    "instance_id": "engine-1",
    "address": "127.0.0.1:1",
    "pid": 7,
    "state": "serving",
}


def shown(**fields: Any) -> str:
    return instances_table([{**ENGINE, **fields}]).lines(200)[1].plain


def breaker(state: str, failures: int, retry_in_ms: int) -> dict[str, Any]:
    return {
        "state": state,
        "failures": failures,
        "retry_in_ms": retry_in_ms,
    }


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (breaker("closed", 2, 0), "closed"),
        (breaker("open", 6, 1250), "open (6 failed, tries in 1.2 s)"),
        (breaker("half_open", 6, 0), "half_open (6 failed)"),
    ],
)
def test_a_breaker_is_told_in_words(seen: dict[str, Any], expected: str) -> None:
    assert expected in shown(breaker=seen)


def test_an_engine_shows_its_load_and_others_their_calls() -> None:
    load = {"running": 3, "waiting": 2, "max_running": 64}
    assert "3/64 +2" in shown(load=load, outstanding=5)
    assert shown(load={**load, "waiting": 0}).endswith("  3/64")
    assert shown(outstanding=5).endswith("  5")


def test_without_a_gateway_the_columns_stay_empty() -> None:
    assert shown().split() == ["engine", "engine-1", "127.0.0.1:1", "7", "serving"]
