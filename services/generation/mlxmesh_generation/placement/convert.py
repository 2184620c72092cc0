"""Converts the messages of engines and of the model service."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.engine.v1.engine_pb2 import Cancel, ExecuteRequest, SequenceOutput, Submit
from mlxmesh.model.v1 import (
    adapter_pb2,
    ensemble_pb2,
    model_pb2,
    policy_pb2,
    split_pb2,
    upstream_pb2,
)
from mlxmesh_generation.domain.adapter import Adapter
from mlxmesh_generation.domain.catalogue import CatalogueChange, Model, ModelKind, ModelVersion
from mlxmesh_generation.domain.encoding import Encoding
from mlxmesh_generation.domain.ensemble import BestOf, Cascade, Fallback, Recipe, Vote
from mlxmesh_generation.domain.request import FinishReason, Timings
from mlxmesh_generation.domain.routing import Arm, Price, Shadow, Split, Subject
from mlxmesh_generation.domain.upstream import Capability, Upstream
from mlxmesh_generation.placement.demand import VersionUse
from mlxmesh_generation.placement.encode_work import EncodedPart, EncodeWork
from mlxmesh_generation.placement.router import EngineLoad
from mlxmesh_generation.placement.sequence import (
    EngineConstraint,
    EngineLogprobs,
    EngineOutput,
    SequenceRequest,
)
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.rpc.error_status import from_failure

_FINISH_REASONS: dict[int, FinishReason] = {
    engine_pb2.ENGINE_FINISH_REASON_STOP: FinishReason.STOP,
    engine_pb2.ENGINE_FINISH_REASON_LENGTH: FinishReason.LENGTH,
    engine_pb2.ENGINE_FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
}
_SUBJECTS: dict[int, Subject] = {
    split_pb2.SPLIT_SUBJECT_SESSION: Subject.SESSION,
    split_pb2.SPLIT_SUBJECT_USER: Subject.USER,
    split_pb2.SPLIT_SUBJECT_PRINCIPAL: Subject.PRINCIPAL,
    split_pb2.SPLIT_SUBJECT_REQUEST: Subject.REQUEST,
}
_CAPABILITIES: dict[int, Capability] = {
    upstream_pb2.UPSTREAM_CAPABILITY_CHAT: Capability.CHAT,
    upstream_pb2.UPSTREAM_CAPABILITY_COMPLETION: Capability.COMPLETION,
    upstream_pb2.UPSTREAM_CAPABILITY_TOOLS: Capability.TOOLS,
    upstream_pb2.UPSTREAM_CAPABILITY_JSON_SCHEMA: Capability.JSON_SCHEMA,
    upstream_pb2.UPSTREAM_CAPABILITY_LOGPROBS: Capability.LOGPROBS,
    upstream_pb2.UPSTREAM_CAPABILITY_EXTENDED_SAMPLING: Capability.EXTENDED_SAMPLING,
    upstream_pb2.UPSTREAM_CAPABILITY_MAX_COMPLETION_TOKENS: Capability.MAX_COMPLETION_TOKENS,
    upstream_pb2.UPSTREAM_CAPABILITY_REASONING_EFFORT: Capability.REASONING_EFFORT,
    upstream_pb2.UPSTREAM_CAPABILITY_EMBEDDING: Capability.EMBEDDING,
}
_ENCODINGS = {
    Encoding.VECTOR: engine_pb2.ENCODING_VECTOR,
    Encoding.SCORE: engine_pb2.ENCODING_SCORE,
}
_KINDS: dict[int, ModelKind] = {
    model_pb2.MODEL_KIND_GENERATION: ModelKind.GENERATION,
    model_pb2.MODEL_KIND_EMBEDDING: ModelKind.EMBEDDING,
    model_pb2.MODEL_KIND_RERANK: ModelKind.RERANK,
    model_pb2.MODEL_KIND_VISION: ModelKind.VISION,
}
# The contract's limit.
MAX_CANCELLED_TOGETHER = 4096
_NO_LIMIT = 2**32

# Engines.


def submit(
    request: SequenceRequest, sequence_id: int, shares_prefill_of: int | None = None
) -> Submit:
    """shares_prefill_of: the id of a sequence on the same stream."""
    asked = request.request
    sampling = Sampling.FromString(asked.sampling.encoded)
    sampling.seed = request.seed
    message = Submit(
        sequence_id=sequence_id,
        prompt_token_ids=request.prompt_token_ids,
        generated_token_ids=request.generated_token_ids,
        sampling=sampling,
        max_tokens=request.max_tokens,
        stop_token_ids=asked.stop_token_ids,
        ignore_eos=asked.ignore_eos,
        timeout_ms=request.timeout_ms,
        priority=asked.priority,
        caller=asked.caller,
        isolated=request.isolated,
        background=asked.flex,
        traceparent=request.traceparent,
        shares_prefill_of=shares_prefill_of,
    )
    if request.adapter is not None:
        message.adapter.digest = request.adapter.digest
        message.adapter.directory = request.adapter.directory
    if request.constraint is not None:
        message.constraint.CopyFrom(_constraint(request.constraint))
    message.images.extend(
        engine_pb2.Image(data=placed.image.data, position=placed.position)
        for placed in request.images
    )
    if asked.logprobs is not None:
        message.logprobs.top = asked.logprobs.top
        message.logprobs.prompt = request.prompt_logprobs
    return message


def _constraint(constraint: EngineConstraint) -> engine_pb2.Constraint:
    message = engine_pb2.Constraint()
    if constraint.grammar == "choices":
        message.choices.texts.extend(json.loads(constraint.text))
    elif constraint.grammar:
        setattr(message, constraint.grammar, constraint.text)
    if constraint.prefix_end_token_ids:
        message.prefix.end_token_ids.extend(constraint.prefix_end_token_ids)
        if constraint.prefix_max_tokens is not None:
            message.prefix.max_tokens = constraint.prefix_max_tokens
    return message


def submit_message(
    request: SequenceRequest, sequence_id: int, shares_prefill_of: int | None = None
) -> ExecuteRequest:
    return ExecuteRequest(submit=submit(request, sequence_id, shares_prefill_of))


def encode_message(work: EncodeWork, timeout_s: float | None) -> engine_pb2.EncodeRequest:
    return engine_pb2.EncodeRequest(
        inputs=[
            engine_pb2.EncodeInput(token_ids=each.token_ids, second_start=each.second_start)
            for each in work.inputs
        ],
        encoding=_ENCODINGS[work.encoding],
        timeout_ms=None if timeout_s is None else max(1, round(timeout_s * 1000)),
        caller=work.caller,
        background=work.flex,
    )


def encoded_part(message: engine_pb2.EncodeResponse) -> EncodedPart:
    return EncodedPart([each.values for each in message.vectors], message.scores)


def cancel_message(sequence_id: int) -> ExecuteRequest:
    return ExecuteRequest(cancel=Cancel(sequence_ids=[sequence_id]))


def add_to_cancel(message: ExecuteRequest, sequence_id: int) -> bool:
    """Adds a sequence to a cancel message; False when it is another message or is full."""
    cancel = message.cancel
    if not 0 < len(cancel.sequence_ids) < MAX_CANCELLED_TOGETHER:
        return False
    cancel.sequence_ids.append(sequence_id)
    return True


def engine_output(message: SequenceOutput) -> EngineOutput:
    """Raises: KeyError for a finish reason that this version does not know."""
    output = EngineOutput(message.token_ids)
    if reason := message.finish_reason:
        timings = message.timings
        output.finish_reason = _FINISH_REASONS[reason]
        output.timings = Timings(timings.queue_ms, timings.prefill_ms, timings.decode_ms)
    if message.HasField("failure"):
        output.failure = from_failure(message.failure)
    if message.accepted.HasField("prompt_tokens"):
        output.prompt_tokens = message.accepted.prompt_tokens
    if message.HasField("accepted"):
        output.accepted, output.cached_tokens = True, message.accepted.cached_tokens
    elif message.HasField("cached_tokens"):
        output.cached_tokens = message.cached_tokens
    if not output.token_ids:
        output.prefilled_tokens = message.prefilled_tokens
    if message.HasField("logprobs"):
        output.logprobs = _logprobs(message.logprobs)
    if message.HasField("prompt_logprobs"):
        output.prompt_logprobs = _logprobs(message.prompt_logprobs)
    return output


def _logprobs(message: engine_pb2.Logprobs) -> EngineLogprobs:
    return EngineLogprobs(message.chosen, message.top_token_ids, message.top)


def engine_load(message: engine_pb2.EngineLoad) -> EngineLoad:
    return EngineLoad(
        running=message.running,
        waiting=message.waiting,
        max_running=message.max_running,
        max_waiting=message.max_waiting,
        kv_capacity_bytes=message.kv_capacity_bytes,
        kv_reserved_bytes=message.kv_reserved_bytes,
        background=message.background_running + message.background_waiting,
        adapters=frozenset(message.adapters),
    )


# The model service.


def catalogue_change(message: model_pb2.WatchModelsResponse) -> CatalogueChange:
    return CatalogueChange(
        sequence=message.sequence,
        model=_model(message.model) if message.HasField("model") else None,
        removed_name=message.removed_name if message.HasField("removed_name") else None,
        synced=message.HasField("synced"),
    )


def watch_models(after_sequence: int) -> model_pb2.WatchModelsRequest:
    return model_pb2.WatchModelsRequest(after_sequence=after_sequence)


def request_load(
    name: str, version: int, uses: Sequence[VersionUse]
) -> model_pb2.RequestLoadRequest:
    recent = [model_pb2.VersionUse(**asdict(use)) for use in uses]
    return model_pb2.RequestLoadRequest(name=name, version=version, recent_uses=recent)


def get_tokenizer(name: str, version: int, profile: str) -> model_pb2.GetTokenizerRequest:
    return model_pb2.GetTokenizerRequest(name=name, version=version, profile=profile)


def _model(message: model_pb2.Model) -> Model:
    policy = message.policy
    return Model(
        name=message.name,
        versions={version.version: _version(message.name, version) for version in message.versions},
        default_version=message.default_version,
        aliases=dict(message.aliases),
        splits={alias: _split(split) for alias, split in message.splits.items()},
        shadows=tuple(map(_shadow, message.shadows)),
        load_on_demand=_given(policy, "load_on_demand"),
        load_timeout_s=_given(policy, "load_timeout_s"),
        price=_price(policy.price) if policy.HasField("price") else None,
        ensemble=_recipe(message.ensemble) if message.HasField("ensemble") else None,
        adapters={adapter.name: _adapter(adapter) for adapter in message.adapters},
    )


def _adapter(message: adapter_pb2.Adapter) -> Adapter:
    return Adapter(message.name, message.digest, message.directory)


def _recipe(message: ensemble_pb2.EnsembleRecipe) -> Recipe | None:
    """None for a kind that this version does not know: then it is a model without versions."""
    kind = message.WhichOneof("recipe")
    if kind == "fallback":
        timeout_ms = message.fallback.first_token_timeout_ms
        return Fallback(_references(message.fallback.models), timeout_ms / 1000 or None)
    if kind == "cascade":
        cascade = message.cascade
        return Cascade(
            _references(cascade.models),
            cascade.min_mean_logprob if cascade.HasField("min_mean_logprob") else None,
            cascade.require_valid or not cascade.HasField("require_valid"),
            cascade.json_schema,
        )
    if kind == "vote":
        vote = message.vote
        return Vote(_references(vote.models), vote.samples or 1, vote.answer_pattern)
    if kind == "best_of":
        best = message.best_of
        judge = ModelReference.parse(best.judge)
        return BestOf(_references(best.models), judge, best.samples or 1)
    return None


def _references(models: Iterable[str]) -> tuple[ModelReference, ...]:
    return tuple(map(ModelReference.parse, models))


def _given(policy: policy_pb2.ModelPolicy, field: Any) -> Any:
    return getattr(policy, field) if policy.HasField(field) else None


def _split(message: split_pb2.Split) -> Split:
    return Split(
        arms=tuple(Arm(arm.arm, arm.version, arm.weight) for arm in message.arms),
        salt=message.salt,
        subject=_SUBJECTS.get(message.subject, Subject.SESSION),
        rollout_id=message.rollout_id,
        experiment_id=message.experiment_id,
    )


def _shadow(message: split_pb2.Shadow) -> Shadow:
    return Shadow(message.shadow_id, message.from_version, message.to_version, message.percent)


def _price(message: policy_pb2.Price) -> Price:
    return Price(
        message.per_million_prompt_tokens,
        message.per_million_cached_tokens,
        message.per_million_completion_tokens,
        message.per_device_second,
    )


def _version(name: str, message: model_pb2.ModelVersion) -> ModelVersion:
    return ModelVersion(
        name=name,
        version=message.version,
        digest=message.digest,
        # 0 means that the catalogue knows no limit; the engine then checks its own.
        context_tokens=message.context_tokens or _NO_LIMIT,
        vocab_size=message.vocab_size or _NO_LIMIT,
        desired_replicas=message.desired_replicas,
        tool_format=message.tool_format,
        reasoning_format=message.reasoning_format,
        profile=f"{message.profile}@{message.profile_revision}" if message.profile else "",
        upstream=_upstream(message.upstream) if message.HasField("upstream") else None,
        unhealthy=from_failure(message.failure) if message.HasField("failure") else None,
        kind=_KINDS.get(message.kind),
        dimensions=message.dimensions,
    )


def _upstream(message: upstream_pb2.Upstream) -> Upstream:
    """Leaves out capabilities that this version does not know."""
    known = (_CAPABILITIES.get(number) for number in message.capabilities)
    return Upstream(
        base_url=message.base_url,
        model_id=message.model_id,
        key=message.key,
        capabilities=frozenset(each for each in known if each is not None),
        max_concurrent=message.max_concurrent or 1,
    )
