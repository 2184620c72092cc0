"""What people read of the instances of a mesh."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.model.v1.model_pb2 import (
    FileFetch,
    Model,
    ModelVersion,
    ReplicaGroup,
    ReplicaRank,
)
from mlxmesh_cli.screen.embedding_tables import cosine
from mlxmesh_cli.screen.output import to_dict
from mlxmesh_cli.screen.tables import instances_table, models_table, overview_view

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
        (breaker("open", 6, 1250), "open (6 failed, retries in 1.2 s)"),
        (breaker("half_open", 6, 0), "half_open (6 failed)"),
    ],
)
def test_a_breaker_is_told_in_words(seen: dict[str, Any], expected: str) -> None:
    assert expected in shown(breaker=seen)


def test_an_engine_shows_its_load_and_others_their_calls() -> None:
    load = {"running": 3, "waiting": 2, "max_running": 64}
    assert "3/64 +2" in shown(load=load, outstanding=5)
    assert shown(load={**load, "waiting": 0}).endswith("  3/64")
    assert "3/64 +2, 88 background" in shown(load={**load, "background": 88})
    assert shown(outstanding=5).endswith("  5")


def test_without_a_gateway_the_columns_stay_empty() -> None:
    assert shown().split() == ["engine", "engine-1", "127.0.0.1:1", "7", "serving"]


def failing(**facts: Any) -> Model:
    version = ModelVersion(version=1, desired_replicas=2, ready_replicas=1, **facts)
    return Model(name="pocket", versions=[version])


def in_both_tables(model: Model) -> tuple[str, str]:
    """What `mlxmesh models` and `mlxmesh status` show of it."""
    console = Console(width=300, record=True)
    console.print(overview_view({"instances": [], "models": [to_dict(model)]}))
    return models_table([model]).lines(300)[1].plain, console.export_text()


@pytest.mark.parametrize(
    ("retry_in_ms", "expected"),
    [
        (10_000, "no runtime is up (next attempt within 10 s)"),
        (0, "no runtime is up (retry with `mlxmesh load`)"),
    ],
)
def test_a_failed_load_that_stays_wanted_says_when_it_is_tried_again(
    retry_in_ms: int, expected: str
) -> None:
    failure = Failure(reason="NO_RUNTIME", message="no runtime is up")
    for table in in_both_tables(failing(failure=failure, retry_in_ms=retry_in_ms)):
        assert expected in table


def test_a_runtime_that_was_passed_over_is_named_with_the_reason() -> None:
    refusals = {
        "runtime-1": Failure(message="runtime-1 has not the files of pocket@1: /models"),
        "runtime-2": Failure(message="needs 4 GiB"),
    }
    for table in in_both_tables(failing(rejections=refusals)):
        assert "runtime-1 has not the files of pocket@1: /models; runtime-2: needs 4 GiB" in table


def test_a_runtime_that_fetches_the_files_says_how_far_it_is() -> None:
    fetches = {
        "runtime-1": FileFetch(done_bytes=1_500_000, total_bytes=93_000_000),
        "runtime-2": FileFetch(),
    }
    for table in in_both_tables(failing(fetches=fetches)):
        assert "runtime-1 fetches 1.5 of 93.0 MB; runtime-2 looks for the files" in table


def test_a_replica_that_is_a_group_says_where_its_ranks_run() -> None:
    ranks = [
        ReplicaRank(rank=0, runtime_id="runtime-1", host="10.0.0.1"),
        ReplicaRank(rank=1, runtime_id="runtime-2", host="10.0.0.2", round_trip_us=412),
        ReplicaRank(rank=2, runtime_id="runtime-1", host="10.0.0.1"),
    ]
    away = ReplicaRank(rank=0, runtime_id="runtime-3")
    groups = [ReplicaGroup(ranks=ranks), ReplicaGroup(ranks=[away])]
    told = (
        "ranks 0 and 2 on runtime-1 (10.0.0.1), rank 1 on runtime-2 (10.0.0.2, 0.4 ms); "
        "rank 0 on runtime-3"
    )
    for table in in_both_tables(failing(group_size=3, groups=groups)):
        assert told in table


def test_a_group_that_does_not_run_yet_shows_how_many_ranks_it_has() -> None:
    for table in in_both_tables(failing(group_size=3)):
        assert "3 wanted" in table
    assert "wanted" not in in_both_tables(failing(group_size=1))[1]
    unloaded = failing(group_size=3)
    unloaded.versions[0].desired_replicas = 0
    for table in in_both_tables(unloaded):
        assert "wanted" not in table


def test_a_reason_that_ended_the_load_is_told_once() -> None:
    failure = Failure(message="runtime-1 has not the files")
    for table in in_both_tables(failing(failure=failure, rejections={"runtime-1": failure})):
        assert table.count("has not the files") == 1


def test_what_nobody_answered_stands_below_the_tables() -> None:
    console = Console(width=100, record=True)
    problem = "the model service does not answer within 5 s; see `mlxmesh logs model`"
    console.print(overview_view({"instances": [], "models": [], "problems": [problem]}))
    assert problem in console.export_text()


def test_a_vector_without_a_direction_is_similar_to_none() -> None:
    assert cosine([0.0, 0.0], [1.0, 0.0]) == 0
    assert cosine([1.0, 0.0], [2.0, 0.0]) == 1
