"""Converts between OpenAI's JSON and the contracts' messages."""

from __future__ import annotations

from collections.abc import Sequence

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.model.v1.model_pb2 import Model, ModelKind
from mlxmesh_gateway.openai.constraints import set_extra_constraint
from mlxmesh_gateway.openai.schema import GenerationFields, SamplingFields, TextPart
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.reference import ModelReference

DEFAULT_TEMPERATURE = 1.0
"""OpenAI's; the contract's is 0."""

_ROLES = {
    "system": pb.ROLE_SYSTEM,
    "developer": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}

_TIERS = {pb.SERVICE_TIER_STANDARD: "default", pb.SERVICE_TIER_FLEX: "flex"}

# Requests.


def generation_options(request: SamplingFields) -> pb.GenerateRequest:
    """A request with the options alone. Raises: InvalidArgument."""
    generation = pb.GenerateRequest(
        sampling=sampling(request),
        stop=request.stop or (),
        stop_token_ids=request.stop_token_ids or (),
        ignore_eos=bool(request.ignore_eos),
        priority=request.priority or 0,
        session_id=request.session_id or "",
        adapter=request.adapter or "",
        labels=request.labels or {},
        service_tier=service_tier_of(request.service_tier),
    )
    set_extra_constraint(generation, request)
    return generation


def service_tier_of(name: str | None) -> pb.ServiceTier.ValueType:
    """The tier by its name in OpenAI's requests."""
    if name is None:
        return pb.SERVICE_TIER_UNSPECIFIED
    flex = name == "flex"
    return pb.SERVICE_TIER_FLEX if flex else pb.SERVICE_TIER_STANDARD


def generation_of(
    request: GenerationFields, request_id: str, max_tokens: int | None
) -> pb.GenerateRequest:
    """A request without its input. Raises: InvalidArgument."""
    generation = generation_options(request)
    generation.model = request.model
    generation.request_id = request_id
    if max_tokens is not None:
        generation.max_tokens = max_tokens
    if request.n is not None:
        generation.n = request.n
    return generation


def sampling(request: SamplingFields) -> Sampling:
    """With OpenAI's default temperature."""
    temperature = request.temperature
    return Sampling(
        temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=None if request.seed is None else request.seed % 2**64,
        logit_bias=request.logit_bias,
    )


def chat_message(role: str, content: Sequence[TextPart] | None, field: str) -> pb.ChatMessage:
    """A message, whose path in the request is `field`.

    Raises: InvalidArgument, FeatureNotSupported.
    """
    if role not in _ROLES:
        raise FeatureNotSupported(f"{field}.role {role} is not supported", field=f"{field}.role")
    where = f"{field}.content"
    if content is None:
        raise InvalidArgument(f"{where} is required", field=where)
    parts = [_part(part, f"{where}.{number}") for number, part in enumerate(content)]
    if any(part.HasField("image") for part in parts):
        return pb.ChatMessage(role=_ROLES[role], parts=parts)
    # With nothing in between.
    return pb.ChatMessage(role=_ROLES[role], content="".join(part.text for part in parts))


def _part(part: TextPart, field: str) -> pb.ContentPart:
    """Raises: InvalidArgument."""
    if (part.text is None) == (part.image_url is None):
        raise InvalidArgument(f"{field} must be a part with a text or an image_url", field=field)
    if part.text is not None:
        return pb.ContentPart(text=part.text)
    url = (
        part.image_url if isinstance(part.image_url, str) else part.image_url and part.image_url.url
    )
    if not url:
        where = f"{field}.image_url"
        raise InvalidArgument(f"{where} must be a data URL", field=where)
    return pb.ContentPart(image=pb.Image(url=url))


def includes_usage(request: GenerationFields) -> bool:
    """Whether a stream ends with a chunk of token counts. Raises: InvalidArgument."""
    if request.stream_options is None:
        return False
    if not request.stream:
        raise InvalidArgument("stream_options need stream: true", field="stream_options")
    return bool(request.stream_options.include_usage)


# Responses.


def tier_name(request: pb.GenerateRequest) -> str:
    """OpenAI's name of the tier that serves a request; empty if it names none."""
    return _TIERS.get(request.service_tier, "")


def model_objects(model: Model) -> list[dict[str, object]]:
    """A model as OpenAI lists it, and each of its aliases and adapters."""
    aliases = sorted(alias for alias in model.aliases if alias != "default")
    names = (*aliases, *(adapter.name for adapter in model.adapters))
    references = (model.name, *(f"{model.name}:{name}" for name in names))
    return [model_object(model, reference) for reference in references]


def model_object(model: Model, reference: str) -> dict[str, object]:
    """The version that a reference of the model stands for."""
    shown: dict[str, object] = {"id": reference, "object": "model", "created": 0}
    number = _version_number(model, reference)
    for version in model.versions:
        if version.version == number or len(model.versions) == 1:
            shown["created"] = version.create_time.seconds
            shown["max_model_len"] = version.context_tokens
            if version.kind:
                shown["kind"] = ModelKind.Name(version.kind).removeprefix("MODEL_KIND_").lower()
            if version.dimensions:
                shown["dimensions"] = version.dimensions
    return {**shown, "owned_by": "mlxmesh"}


def _version_number(model: Model, reference: str) -> int:
    parsed = ModelReference.parse(reference)
    if parsed.version is not None:
        return parsed.version
    return model.aliases.get(parsed.alias or "", model.default_version)
