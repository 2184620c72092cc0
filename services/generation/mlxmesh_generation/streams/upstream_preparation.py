"""Prepares a request to an upstream: what it does not take is refused, and its body is made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlxmesh_generation.domain.request import Resumed
from mlxmesh_generation.domain.upstream import Upstream
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.upstream.convert import sampling_of
from mlxmesh_generation.upstream.limits import check_healthy, check_switched_on, check_taken
from mlxmesh_generation.upstream.request import body_of
from mlxmesh_generation.upstream.upstreams import Connection
from mlxmesh_shared.errors import StreamLost


@dataclass(frozen=True)
class PreparedUpstream:
    """All that a generation needs before it asks an upstream."""

    plan: Plan
    connection: Connection
    body: Mapping[str, Any]


def prepared_upstream(plan: Plan, upstream: Upstream, connection: Connection) -> PreparedUpstream:
    """Raises: FeatureNotSupported, ModelNotLoaded; what the last health check found."""
    request, version = plan.request, plan.version
    check_switched_on(version)
    sampling = sampling_of(request.sampling)
    check_taken(request, sampling, version, upstream)
    check_healthy(version)
    if plan.resumed and not sampling.seed:
        sampling = replace(sampling, seed=None)  # Started reported that there was none
    return PreparedUpstream(plan, connection, body_of(request, sampling, upstream))


def check_resumable(resumed: Resumed, version: str) -> None:
    """Raises: StreamLost if any output was sent: what follows it exactly is known to nobody."""
    sent = [
        output
        for output in resumed.outputs.values()
        if output.text_characters
        or output.reasoning_characters
        or output.tool_calls
        or output.finished is not None
    ]
    if sent:
        characters = sum(each.text_characters + each.reasoning_characters for each in sent)
        raise StreamLost(
            f"the generation service that had asked the upstream of {version} was lost after"
            f" {characters} characters; an upstream's answer cannot be continued, so send the"
            " request again"
        )
