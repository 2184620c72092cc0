"""What an upstream cannot do is refused by name, before anything is sent. Pure."""

from collections.abc import Iterator

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import Chat, GenerationRequest, PromptText, PromptTokens
from mlxmesh_generation.domain.upstream import Capability, Sampling, Upstream
from mlxmesh_shared.errors import FeatureNotSupported, ModelNotLoaded

_GRAMMARS = ("regex", "grammar", "choice")


def check_taken(
    request: GenerationRequest, sampling: Sampling, version: ModelVersion, upstream: Upstream
) -> None:
    """Raises: FeatureNotSupported for the first field that the upstream does not take."""
    for field in _not_taken(request, sampling, upstream.capabilities):
        raise not_taken(field, version)


def check_switched_on(version: ModelVersion) -> None:
    """Raises: ModelNotLoaded."""
    if not version.desired_replicas:
        raise ModelNotLoaded(
            f"the upstream {version} is switched off; run `mlxmesh load {version}`", field="model"
        )


def check_healthy(version: ModelVersion) -> None:
    """Raises: what the last health check of its upstream found."""
    found = version.unhealthy
    if found is not None:
        raise type(found)(found.message, retry_delay_s=found.retry_delay_s)


def not_taken(field: str, version: ModelVersion) -> FeatureNotSupported:
    """The refusal of a field."""
    return FeatureNotSupported(
        f"{field}: the upstream of {version} does not take it; leave it out, or use another model",
        field=field,
    )


def _not_taken(
    request: GenerationRequest, sampling: Sampling, takes: frozenset[Capability]
) -> Iterator[str]:
    source = request.input
    if isinstance(source, PromptTokens):
        yield "tokens"
    elif isinstance(source, PromptText) and Capability.COMPLETION not in takes:
        yield "prompt"
    elif isinstance(source, Chat):
        yield from _of_chat(source, takes)
    yield from _of_constraint(request, takes)
    yield from _of_sampling(request, sampling, takes)
    if request.stop_token_ids:
        yield "stop_token_ids"
    if request.ignore_eos:
        yield "ignore_eos"
    if request.logprobs is not None:
        if request.logprobs.prompt:
            yield "logprobs.prompt"
        if Capability.LOGPROBS not in takes or not isinstance(source, Chat):
            yield "logprobs"


def _of_chat(chat: Chat, takes: frozenset[Capability]) -> Iterator[str]:
    if Capability.CHAT not in takes:
        yield "chat"
    if chat.images:
        yield chat.images[0].path
    if not chat.add_generation_prompt:
        yield "chat.add_generation_prompt"
    if chat.tools is not None and Capability.TOOLS not in takes:
        yield "tools"
    if chat.reasoning.enabled is not None:
        yield "reasoning.enabled"
    if chat.reasoning.budget_tokens is not None:
        yield "reasoning.budget_tokens"
    if chat.reasoning.effort and Capability.REASONING_EFFORT not in takes:
        yield "reasoning.effort"


def _of_constraint(request: GenerationRequest, takes: frozenset[Capability]) -> Iterator[str]:
    if request.constraint is None:
        return
    field = request.constraint.field
    is_text = not isinstance(request.input, Chat)
    if field in _GRAMMARS or Capability.JSON_SCHEMA not in takes or is_text:
        yield field


def _of_sampling(
    request: GenerationRequest, sampling: Sampling, takes: frozenset[Capability]
) -> Iterator[str]:
    if request.sampling.biased_token_ids:
        yield "sampling.logit_bias"
    if Capability.EXTENDED_SAMPLING in takes:
        return
    if sampling.top_k:
        yield "sampling.top_k"
    if sampling.min_p:
        yield "sampling.min_p"
    if sampling.repetition_penalty not in (None, 1.0):
        yield "sampling.repetition_penalty"
