from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh.common.v1.sampling_pb2 import Sampling as SamplingMessage
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh_engine.scheduling.request import (
    AdapterSource,
    FinishReason,
    Load,
    Sampling,
    SequenceRequest,
    Timings,
    Update,
)
from mlxmesh_engine.service.convert import ModelLimits, to_load, to_request, to_response
from mlxmesh_shared.errors import (
    ContextTooLong,
    FeatureNotSupported,
    InvalidArgument,
    QueueFull,
)

LIMITS = ModelLimits(vocab_size=100, context_tokens=50, eos_token_ids=frozenset({2, 3}))


def submit(**fields: Any) -> engine_pb2.Submit:
    defaults: dict[str, Any] = {"sequence_id": 7, "prompt_token_ids": [1, 5], "max_tokens": 10}
    return engine_pb2.Submit(**(defaults | fields))


def convert(
    message: engine_pb2.Submit, now_s: float = 100.0, limits: ModelLimits = LIMITS
) -> SequenceRequest:
    return to_request(message, stream_id=3, limits=limits, now_s=now_s)


def test_a_request_that_never_fits_into_memory_is_refused_with_advice() -> None:
    limits = ModelLimits(100, 50, frozenset(), kv_tokens=12)
    assert convert(submit(max_tokens=10), limits=limits).max_total_tokens == 12
    with pytest.raises(ContextTooLong, match=r"12 tokens.*kv_cache_bytes") as caught:
        convert(submit(max_tokens=11), limits=limits)
    assert caught.value.field == "max_tokens"


_ADAPTER = engine_pb2.Adapter(digest="ab" * 32, directory="/models/_adapters/1")


def test_an_adapter_is_part_of_the_identity_of_prefixes() -> None:
    limits = replace(LIMITS, max_adapters=1)
    sequence = convert(submit(adapter=_ADAPTER), limits=limits)
    assert sequence.adapter == AdapterSource("ab" * 32, "/models/_adapters/1")
    assert sequence.prefix_namespace == bytes.fromhex("ab" * 32)
    assert convert(submit(), limits=limits).adapter is None


def test_an_engine_without_slots_refuses_adapters() -> None:
    with pytest.raises(FeatureNotSupported, match="max_adapters") as caught:
        convert(submit(adapter=_ADAPTER))
    assert caught.value.field == "adapter"


def test_the_directory_of_an_adapter_is_absolute() -> None:
    adapter = engine_pb2.Adapter(digest="ab" * 32, directory="models/1")
    with pytest.raises(InvalidArgument, match="absolute") as caught:
        convert(submit(adapter=adapter), limits=replace(LIMITS, max_adapters=1))
    assert caught.value.field == "adapter.directory"


def test_caller_and_priority_are_converted() -> None:
    sequence = convert(submit(priority=-7, caller="team-a"))
    assert (sequence.priority, sequence.caller) == (-7, "team-a")


def test_a_plain_submit_is_greedy_and_ends_at_the_models_end_tokens() -> None:
    assert convert(submit()) == SequenceRequest(
        (3, 7),
        (1, 5),
        10,
        sampling=Sampling(),
        end_token_ids=frozenset({2, 3}),
        submitted_s=100.0,
    )


def test_sampling_has_the_contracts_options_under_their_names() -> None:
    names = {field.name for field in fields(Sampling)}
    assert names == set(SamplingMessage.DESCRIPTOR.fields_by_name)


def test_every_option_is_converted() -> None:
    sampling = SamplingMessage(
        temperature=0.5,
        top_p=0.25,
        top_k=4,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=0.75,
        seed=2**64 - 1,
        logit_bias={99: -100.0},
    )
    sequence = convert(
        submit(
            sampling=sampling,
            generated_token_ids=[9, 8],
            stop_token_ids=[50],
            ignore_eos=True,
            timeout_ms=1500,
        )
    )
    assert sequence.sampling == Sampling(
        0.5, 0.25, 4, 0.125, 1.5, -0.5, 0.75, 2**64 - 1, {99: -100.0}
    )
    assert sequence.generated == (9, 8)
    assert sequence.end_token_ids == {50}
    assert sequence.deadline_s == 101.5


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt_token_ids": []}, "prompt_token_ids"),
        ({"prompt_token_ids": [1, 100]}, "prompt_token_ids[1]"),
        ({"prompt_token_ids": [2**32 - 1]}, "prompt_token_ids[0]"),
        ({"generated_token_ids": [5, 6, 100]}, "generated_token_ids[2]"),
        ({"stop_token_ids": [100]}, "stop_token_ids[0]"),
        ({"sampling": SamplingMessage(logit_bias={100: 1.0})}, "sampling.logit_bias[100]"),
        ({"generated_token_ids": [5] * 11}, "max_tokens"),
        ({"max_tokens": 49}, "max_tokens"),
    ],
)
def test_input_that_would_crash_mlx_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert(submit(**fields))
    assert caught.value.field == field


def test_the_context_counts_prompt_and_output() -> None:
    assert convert(submit(max_tokens=48)).max_tokens == 48
    with pytest.raises(ContextTooLong, match="context of 50"):
        convert(submit(max_tokens=49))


@given(st.builds(submit, prompt_token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=60)))
def test_no_token_id_exceeds_the_vocabulary(message: engine_pb2.Submit) -> None:
    try:
        sequence = convert(message)
    except InvalidArgument:
        return
    assert all(0 <= token_id < 100 for token_id in sequence.prompt)
    assert 1 <= len(sequence.prompt) <= 40


def test_updates_become_one_message() -> None:
    load = Load(3, 1, 8, 16, kv_bytes=2**40, tokens_per_second=12.5)
    response = to_response(
        [
            Update(1, accepted=True, prefilled_tokens=0),
            Update(2, token_ids=(4, 5)),
            Update(3, finish_reason=FinishReason.STOP, token_ids=(2,), timings=Timings(1, 2, 3)),
            Update(4, error=QueueFull("full", retry_delay_s=0.5)),
        ],
        load,
        now_s=0.0,
    )
    first, second, third, fourth = response.outputs
    assert first.HasField("accepted")
    assert first.HasField("prefilled_tokens")
    assert not second.HasField("accepted")
    assert not second.HasField("prefilled_tokens")
    assert list(second.token_ids) == [4, 5]
    assert third.finish_reason == engine_pb2.ENGINE_FINISH_REASON_STOP
    assert (third.timings.queue_ms, third.timings.prefill_ms, third.timings.decode_ms) == (1, 2, 3)
    assert (fourth.failure.reason, fourth.failure.retry_delay_ms) == ("QUEUE_FULL", 500)
    assert response.load == to_load(load, now_s=0.0)
    assert response.load.kv_bytes == 2**40


def test_cached_tokens_are_sent_with_the_acceptance_and_when_they_change() -> None:
    accepted = Update(1, accepted=True, cached_tokens=64)
    changed = Update(1, cached_tokens=0, prefilled_tokens=5)
    first, second, both = to_response(
        [accepted, changed, accepted.followed_by(changed)], None, now_s=0.0
    ).outputs
    assert first.accepted.cached_tokens == 64
    assert not first.HasField("cached_tokens")
    assert second.HasField("cached_tokens")
    assert second.cached_tokens == 0
    assert both.accepted.cached_tokens == 0
    assert not both.HasField("cached_tokens")


def test_the_prefix_caches_figures_are_part_of_the_load() -> None:
    load = Load(0, 0, 8, 16, prefix_bytes=2**35, prompt_tokens=100, cached_prompt_tokens=64)
    message = to_load(replace(load, kv_capacity_bytes=2**40, kv_reserved_bytes=2**41), now_s=0.0)
    assert message.prefix_bytes == 2**35
    assert (message.kv_capacity_bytes, message.kv_reserved_bytes) == (2**40, 2**41)
    assert (message.prompt_tokens, message.cached_prompt_tokens) == (100, 64)


@pytest.mark.parametrize(
    ("load", "longest_wait_ms", "idle_ms"),
    [
        (Load(1, 2, 8, 16, oldest_waiting_s=98.5), 1500, 0),
        (Load(0, 0, 8, 16, idle_since_s=40.0), 0, 60_000),
        (Load(0, 1, 8, 16, oldest_waiting_s=100.5), 0, 0),  # submitted since the clock was read
        (Load(0, 1, 8, 16, oldest_waiting_s=-1e9), 2**32 - 1, 0),
        (Load(0, 0, 8, 16), 0, 0),
    ],
)
def test_waiting_and_idleness_are_measured_up_to_now(
    load: Load, longest_wait_ms: int, idle_ms: int
) -> None:
    message = to_load(load, now_s=100.0)
    assert (message.longest_wait_ms, message.idle_ms) == (longest_wait_ms, idle_ms)


@pytest.mark.parametrize("reason", FinishReason)
def test_every_finish_reason_has_its_name_on_the_wire(reason: FinishReason) -> None:
    (output,) = to_response([Update(1, finish_reason=reason)], None, now_s=0.0).outputs
    name = engine_pb2.EngineFinishReason.Name(output.finish_reason)
    assert name == f"ENGINE_FINISH_REASON_{reason.name}"


@pytest.mark.parametrize(
    ("generated", "reason"),
    [([], None), ([5, 6], None), ([5, 50], FinishReason.STOP), ([5] * 10, FinishReason.LENGTH)],
)
def test_output_that_is_complete_already_is_detected(
    generated: list[int], reason: FinishReason | None
) -> None:
    sequence = convert(submit(generated_token_ids=generated, stop_token_ids=[50]))
    assert sequence.complete is reason
