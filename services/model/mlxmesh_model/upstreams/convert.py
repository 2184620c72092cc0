"""Converts upstreams; checks what the contract's rules cannot say."""

from mlxmesh.model.v1 import upstream_pb2 as pb
from mlxmesh_model.catalogue.upstream import (
    DEFAULT_CAPABILITIES,
    DEFAULT_MAX_CONCURRENT,
    Capability,
    Upstream,
)
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.openai_upstream.address import KeyReference, checked_url

_CAPABILITIES: "dict[pb.UpstreamCapability.ValueType, Capability]" = {
    pb.UPSTREAM_CAPABILITY_CHAT: Capability.CHAT,
    pb.UPSTREAM_CAPABILITY_COMPLETION: Capability.COMPLETION,
    pb.UPSTREAM_CAPABILITY_EMBEDDING: Capability.EMBEDDING,
    pb.UPSTREAM_CAPABILITY_TOOLS: Capability.TOOLS,
    pb.UPSTREAM_CAPABILITY_JSON_SCHEMA: Capability.JSON_SCHEMA,
    pb.UPSTREAM_CAPABILITY_LOGPROBS: Capability.LOGPROBS,
    pb.UPSTREAM_CAPABILITY_EXTENDED_SAMPLING: Capability.EXTENDED_SAMPLING,
    pb.UPSTREAM_CAPABILITY_MAX_COMPLETION_TOKENS: Capability.MAX_COMPLETION_TOKENS,
    pb.UPSTREAM_CAPABILITY_REASONING_EFFORT: Capability.REASONING_EFFORT,
}
_NUMBERS = {capability: number for number, capability in _CAPABILITIES.items()}


def from_upstream(message: pb.Upstream) -> Upstream:
    """Raises: InvalidArgument for a URL, an id or a place of a key that cannot be used."""
    model_id, field = message.model_id, "upstream.model_id"
    if not model_id.isprintable() or " " in model_id or set(model_id) & set("?#\\"):
        raise InvalidArgument(f"{field}: it must have no spaces and none of ? # \\", field=field)
    return Upstream(
        base_url=checked_url(message.base_url, field="upstream.base_url"),
        model_id=model_id,
        key=KeyReference.parse(message.key, field="upstream.key").text,
        capabilities=_capabilities(message) or DEFAULT_CAPABILITIES,
        context_tokens=message.context_tokens,
        max_concurrent=message.max_concurrent or DEFAULT_MAX_CONCURRENT,
    )


def _capabilities(message: pb.Upstream) -> tuple[Capability, ...]:
    """In the order of the contract, so that equal ones compare equal."""
    given = set(message.capabilities)
    if pb.UPSTREAM_CAPABILITY_UNSPECIFIED in given:
        field = "upstream.capabilities"
        raise InvalidArgument(f"{field}: name what the upstream takes", field=field)
    return tuple(_CAPABILITIES[number] for number in sorted(given))


def to_upstream(upstream: Upstream) -> pb.Upstream:
    """An upstream; its key is a reference."""
    return pb.Upstream(
        base_url=upstream.base_url,
        model_id=upstream.model_id,
        key=upstream.key,
        capabilities=[_NUMBERS[each] for each in upstream.capabilities],
        context_tokens=upstream.context_tokens,
        max_concurrent=upstream.max_concurrent,
    )
