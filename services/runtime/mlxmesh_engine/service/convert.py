"""Converts wire messages to requests, and updates back; checks vocabulary and context."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlxmesh.common.v1 import sampling_pb2
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh_engine.scheduling.images import ImageFile
from mlxmesh_engine.scheduling.request import (
    AdapterSource,
    Constraint,
    FinishReason,
    FreePrefix,
    Grammar,
    GrammarKind,
    Load,
    LogprobOptions,
    Logprobs,
    Sampling,
    SequenceRequest,
    Timings,
    Update,
)
from mlxmesh_engine.service.backend import ModelFacts
from mlxmesh_shared.errors import ContextTooLong, FeatureNotSupported, InvalidArgument
from mlxmesh_shared.rpc.error_status import to_failure

_MAX_UINT32 = 2**32 - 1
_FINISH_REASONS = {
    FinishReason.STOP: engine_pb2.ENGINE_FINISH_REASON_STOP,
    FinishReason.LENGTH: engine_pb2.ENGINE_FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: engine_pb2.ENGINE_FINISH_REASON_CANCELLED,
}


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """The limits that keep a request from crashing MLX."""

    vocab_size: int
    context_tokens: int
    eos_token_ids: frozenset[int]
    kv_tokens: int | None = None
    """The tokens that fit into the KV cache; None if unknown."""
    max_adapters: int = 0
    """The slots for adapters; 0 refuses them."""
    images: bool = False
    """Whether prompts may have images."""


def limits_of(loaded: ModelFacts, max_adapters: int) -> ModelLimits:
    return ModelLimits(
        loaded.vocab_size,
        loaded.context_tokens,
        loaded.eos_token_ids,
        loaded.kv.capacity_tokens,
        max_adapters,
        loaded.image_reader is not None,
    )


def to_request(
    submit: engine_pb2.Submit, *, stream_id: int, limits: ModelLimits, now_s: float
) -> SequenceRequest:
    """Raises: InvalidArgument, ContextTooLong, FeatureNotSupported."""
    vocab_size = limits.vocab_size
    adapter = _adapter(submit, limits)
    prompt = _token_ids("prompt_token_ids", submit.prompt_token_ids, vocab_size)
    generated = _token_ids("generated_token_ids", submit.generated_token_ids, vocab_size)
    stops = _token_ids("stop_token_ids", submit.stop_token_ids, vocab_size)
    check_lengths(len(prompt), len(generated), submit.max_tokens, limits)
    return SequenceRequest(
        key=(stream_id, submit.sequence_id),
        prompt=prompt,
        generated=generated,
        max_tokens=submit.max_tokens,
        sampling=_sampling(submit.sampling, vocab_size),
        end_token_ids=frozenset(stops if submit.ignore_eos else (*stops, *limits.eos_token_ids)),
        submitted_s=now_s,
        deadline_s=now_s + submit.timeout_ms / 1e3 if submit.HasField("timeout_ms") else None,
        priority=submit.priority,
        caller=submit.caller,
        traceparent=submit.traceparent,
        isolated=submit.isolated,
        background=submit.background,
        constraint=_constraint(submit, vocab_size),
        logprobs=_logprobs(submit),
        adapter=adapter,
        prefix_namespace=b"" if adapter is None else bytes.fromhex(adapter.digest),
        image_files=_images(submit, limits),
        shares_prefill_of=(
            (stream_id, submit.shares_prefill_of) if submit.HasField("shares_prefill_of") else None
        ),
    )


def _adapter(submit: engine_pb2.Submit, limits: ModelLimits) -> AdapterSource | None:
    if not submit.HasField("adapter"):
        return None
    if limits.images:
        raise FeatureNotSupported("a model that reads images takes no adapters", field="adapter")
    if not limits.max_adapters:
        raise FeatureNotSupported(
            "this engine has no slots for adapters; raise max_adapters", field="adapter"
        )
    if not submit.adapter.directory.startswith("/"):
        raise InvalidArgument("adapter.directory must be absolute", field="adapter.directory")
    return AdapterSource(submit.adapter.digest, submit.adapter.directory)


def _constraint(submit: engine_pb2.Submit, vocab_size: int) -> Constraint | None:
    if not submit.HasField("constraint"):
        return None
    if submit.ignore_eos:
        raise InvalidArgument("ignore_eos cannot be set with a constraint", field="ignore_eos")
    message = submit.constraint
    prefix = None
    if message.HasField("prefix"):
        prefix = FreePrefix(
            _token_ids("constraint.prefix.end_token_ids", message.prefix.end_token_ids, vocab_size),
            message.prefix.max_tokens if message.prefix.HasField("max_tokens") else None,
        )
    return Constraint(_grammar(message), prefix)


def _grammar(message: engine_pb2.Constraint) -> Grammar | None:
    which = message.WhichOneof("grammar")
    if which is None:
        return None
    if which == "choices":
        return Grammar(GrammarKind.CHOICES, json.dumps(list(message.choices.texts)))
    return Grammar(GrammarKind(which), getattr(message, which))


def _logprobs(submit: engine_pb2.Submit) -> LogprobOptions | None:
    if not submit.HasField("logprobs"):
        return None
    return LogprobOptions(submit.logprobs.top, submit.logprobs.prompt)


def _images(submit: engine_pb2.Submit, limits: ModelLimits) -> tuple[ImageFile, ...]:
    if not submit.images:
        return ()
    if not limits.images:
        raise FeatureNotSupported(
            "this engine's model reads no images; use a model of the kind vision", field="images"
        )
    if submit.logprobs.prompt:
        raise FeatureNotSupported(
            "log-probabilities of a prompt with images are not supported", field="logprobs.prompt"
        )
    return tuple(ImageFile(image.data, image.position) for image in submit.images)


def _token_ids(field: str, ids: Iterable[int], vocab_size: int) -> tuple[int, ...]:
    checked = tuple(ids)
    if checked and max(checked) >= vocab_size:
        index = next(i for i, token_id in enumerate(checked) if token_id >= vocab_size)
        raise InvalidArgument(
            f"{field}[{index}] is {checked[index]}; the largest token id is {vocab_size - 1}",
            field=f"{field}[{index}]",
        )
    return checked


def check_lengths(prompt: int, generated: int, max_tokens: int, limits: ModelLimits) -> None:
    """Raises: InvalidArgument, ContextTooLong."""
    if not prompt:
        raise InvalidArgument("prompt_token_ids must not be empty", field="prompt_token_ids")
    if max_tokens < generated:
        raise InvalidArgument(
            f"max_tokens must cover the {generated} generated_token_ids", field="max_tokens"
        )
    if prompt + max_tokens > limits.context_tokens:
        raise ContextTooLong(
            f"{prompt} prompt tokens and max_tokens {max_tokens} exceed the model's context of "
            f"{limits.context_tokens}; shorten the prompt or lower max_tokens",
            field="max_tokens",
        )
    if limits.kv_tokens is not None and prompt + max_tokens > limits.kv_tokens:
        raise ContextTooLong(
            f"{prompt} prompt tokens and max_tokens {max_tokens} exceed the {limits.kv_tokens} "
            "tokens that fit into the engine's KV cache; shorten the prompt, lower max_tokens, or "
            "raise the engine's kv_cache_bytes",
            field="max_tokens",
        )


def _sampling(message: sampling_pb2.Sampling, vocab_size: int) -> Sampling:
    """Copies the options that are set; their names and defaults are those of the contract."""
    for token_id in message.logit_bias:
        if token_id >= vocab_size:
            raise InvalidArgument(
                f"logit_bias has token id {token_id}; the model's largest is {vocab_size - 1}",
                field=f"sampling.logit_bias[{token_id}]",
            )
    options: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    options["logit_bias"] = dict(message.logit_bias)
    return Sampling(**options)


def to_response(
    updates: Iterable[Update], load: Load | None, *, now_s: float
) -> engine_pb2.ExecuteResponse:
    response = engine_pb2.ExecuteResponse(outputs=[_output(update) for update in updates])
    if load is not None:
        response.load.CopyFrom(to_load(load, now_s=now_s))
    return response


def _output(update: Update) -> engine_pb2.SequenceOutput:
    output = engine_pb2.SequenceOutput(
        sequence_id=update.sequence_id,
        prefilled_tokens=update.prefilled_tokens,
        token_ids=update.token_ids,
    )
    if update.logprobs is not None:
        output.logprobs.CopyFrom(_logprobs_message(update.logprobs))
    if update.prompt_logprobs is not None:
        output.prompt_logprobs.CopyFrom(_logprobs_message(update.prompt_logprobs))
    if update.accepted:
        output.accepted.cached_tokens = update.cached_tokens or 0
        if update.prompt_tokens is not None:
            output.accepted.prompt_tokens = update.prompt_tokens
    elif update.cached_tokens is not None:
        output.cached_tokens = update.cached_tokens
    if update.finish_reason is not None:
        output.finish_reason = _FINISH_REASONS[update.finish_reason]
    if update.error is not None:
        output.failure.CopyFrom(to_failure(update.error))
    if update.timings is not None:
        output.timings.CopyFrom(_timings(update.timings))
    return output


def _logprobs_message(logprobs: Logprobs) -> engine_pb2.Logprobs:
    return engine_pb2.Logprobs(
        chosen=logprobs.chosen, top_token_ids=logprobs.top_token_ids, top=logprobs.top
    )


def _timings(timings: Timings) -> engine_pb2.SequenceTimings:
    return engine_pb2.SequenceTimings(
        queue_ms=timings.queue_ms, prefill_ms=timings.prefill_ms, decode_ms=timings.decode_ms
    )


def to_load(load: Load, *, now_s: float) -> engine_pb2.EngineLoad:
    return engine_pb2.EngineLoad(
        running=load.running,
        waiting=load.waiting,
        max_running=load.max_running,
        max_waiting=load.max_waiting,
        kv_bytes=load.kv_bytes,
        tokens_per_second=load.tokens_per_second,
        prefix_bytes=load.prefix_bytes,
        prefix_disk_bytes=load.prefix_disk.nbytes,
        prompt_tokens=load.prompt_tokens,
        cached_prompt_tokens=load.cached_prompt_tokens,
        kv_capacity_bytes=load.kv_capacity_bytes,
        kv_reserved_bytes=load.kv_reserved_bytes,
        longest_wait_ms=min(round(load.longest_wait_s(now_s) * 1e3), _MAX_UINT32),
        idle_ms=round(load.idle_s(now_s) * 1e3),
        background_running=load.background_running,
        background_waiting=load.background_waiting,
        proposed_tokens=load.proposed_tokens,
        accepted_tokens=load.accepted_tokens,
        adapters=load.adapters,
    )
