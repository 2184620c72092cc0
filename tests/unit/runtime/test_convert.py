from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh_runtime import convert
from mlxmesh_runtime.change_feed import Change
from mlxmesh_runtime.device import Device
from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_record import (
    EngineFailure,
    EngineOptions,
    EngineRecord,
    EngineSpec,
    FailureReason,
    ModelFiles,
)
from mlxmesh_runtime.files.file_fetch import Progress
from mlxmesh_runtime.lifecycle import EngineState
from mlxmesh_runtime.memory_guard import EngineMemory, Memory, MemoryStatus
from mlxmesh_runtime.rank_state import RankState

SPEC = EngineSpec(engine_id="e1", model="pocket", model_version=2, model_dir=Path("/m"))


@given(
    st.builds(
        EngineOptions,
        max_running=st.none() | st.integers(1, 1024),
        max_waiting=st.none() | st.integers(0, 100_000),
        prefill_tokens_per_step=st.none() | st.integers(1, 65_536),
        context_tokens=st.none() | st.integers(1, 1_000_000),
        dtype=st.none() | st.sampled_from(["auto", "float32"]),
        kv_cache_bytes=st.none() | st.integers(2**20, 2**50),
        kv_cache_type=st.none() | st.sampled_from(["full", "8bit", "4bit"]),
        prefix_cache_bytes=st.none() | st.integers(0, 2**50),
        prefix_disk_bytes=st.none() | st.integers(0, 2**50),
        forward=st.none() | st.sampled_from(["auto", "mlx"]),
        max_adapters=st.none() | st.integers(0, 64),
        adapter_bytes=st.none() | st.integers(2**20, 2**50),
        group_size=st.none() | st.integers(1, 16),
        group_split=st.none() | st.sampled_from(["auto", "tensor", "pipeline"]),
    )
)
def test_options_round_trip(options: EngineOptions) -> None:
    request = pb.StartEngineRequest(
        engine_id="e1",
        model="pocket",
        model_version=2,
        model_dir="/m",
        options=pb.EngineOptions(**asdict(options)),
    )
    spec = convert.spec_from(request)
    assert spec.options == options
    assert spec.same_model(SPEC)


def test_an_empty_text_is_no_option() -> None:
    request = pb.StartEngineRequest(options=pb.EngineOptions(dtype="", forward="", max_waiting=0))
    assert convert.spec_from(request).options == EngineOptions(max_waiting=0)


@pytest.mark.parametrize("state", EngineState)
def test_every_state_has_its_number(state: EngineState) -> None:
    engine = convert.engine_to(EngineRecord(spec=SPEC, state=state), memory_bytes=0)
    assert pb.EngineState.Name(engine.state) == f"ENGINE_STATE_{state}"


def test_every_field_of_an_engine_is_converted() -> None:
    record = EngineRecord(
        spec=SPEC,
        state=EngineState.BACKOFF,
        address="127.0.0.1:1",
        pid=7,
        restarts=3,
        last_failure=EngineFailure(FailureReason.CRASHED, "it crashed"),
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    engine = convert.engine_to(record, memory_bytes=99, log_tail=("a", "b"))
    assert engine.last_failure.reason == "ENGINE_CRASHED"
    assert (engine.last_failure.code, engine.last_failure.message) == (13, "it crashed")
    assert engine.start_time.ToDatetime(UTC) == record.started_at
    assert (engine.engine_id, engine.model, engine.model_version) == ("e1", "pocket", 2)
    assert (engine.address, engine.pid, engine.restarts) == ("127.0.0.1:1", 7, 3)
    assert (engine.memory_bytes, list(engine.log_tail)) == (99, ["a", "b"])


def test_changes() -> None:
    record = EngineRecord(spec=SPEC, state=EngineState.READY)
    shown = convert.change_to(Change(5, record), convert.engine_to(record, memory_bytes=1))
    assert (shown.sequence, shown.engine.engine_id, shown.synced) == (5, "e1", False)
    mark = convert.change_to(Change(5, None), None)
    assert (mark.sequence, mark.HasField("engine"), mark.synced) == (5, False, True)


def test_runtime_info() -> None:
    device = Device(
        host="h", platform="Linux", kind="cpu", name="N", cores=2, versions={"mlx": "1"}
    )
    status = MemoryStatus(
        memory=Memory(total_bytes=10, available_bytes=5),
        engines=EngineMemory(resident_bytes=2),
        limit_bytes=9,
        available_bytes=4,
        shortage_bytes=1,
    )
    info = convert.runtime_info_to(device, status, runtime_id="runtime-1")
    assert info == pb.GetRuntimeInfoResponse(
        runtime_id="runtime-1",
        host="h",
        platform="Linux",
        device="cpu",
        device_name="N",
        memory_total_bytes=10,
        memory_available_bytes=4,
        memory_limit_bytes=9,
        memory_shortage_bytes=1,
        engines_bytes=2,
        cores=2,
        versions={"mlx": "1"},
    )


def test_another_runtime_is_asked_for_a_rank_with_all_that_it_needs() -> None:
    spec = replace(SPEC, files=ModelFiles("a" * 64, 7), options=EngineOptions(group_size=2))
    place = RankPlace(1, "10.0.0.1:5000", 250_000)
    request = convert.host_rank_request(spec, place)
    assert convert.spec_from(request.engine) == spec
    assert convert.place_from(request) == place


@pytest.mark.parametrize("state", [RankState(7), RankState(fetch=Progress(1, 2)), RankState()])
def test_the_state_of_a_rank_survives_the_wire(state: RankState) -> None:
    assert convert.rank_state_from(convert.rank_state_to(state)) == state
