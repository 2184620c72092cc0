"""Requests of the Responses API as generations, without HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.user_label import add_user
from mlxmesh_gateway.openai.convert import DEFAULT_TEMPERATURE
from mlxmesh_gateway.openai.labels import add_metadata
from mlxmesh_gateway.openai.responses import convert
from mlxmesh_gateway.openai.responses.approvals import Answer
from mlxmesh_gateway.openai.responses.input import Messages
from mlxmesh_gateway.openai.responses.objects import ResponseFacts
from mlxmesh_gateway.openai.responses.schema import ResponseRequest
from mlxmesh_gateway.openai.responses.toolbox import NO_TOOLS, Toolbox
from mlxmesh_shared.errors import FeatureNotSupported


def new_facts(asked: ResponseRequest, response_id: str) -> ResponseFacts:
    """What is known of a response before anything is generated, but its settings."""
    return ResponseFacts(
        id=response_id,
        model=asked.model,
        instructions=asked.instructions,
        background=bool(asked.background),
        store=asked.store is not False,
        previous_response_id=asked.previous_response_id,
        metadata=asked.metadata or {},
        temperature=DEFAULT_TEMPERATURE if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        max_output_tokens=asked.max_output_tokens,
        format=convert.format_facts(asked),
    )


def planned(
    asked: ResponseRequest,
    facts: ResponseFacts,
    earlier: Messages = (),
    *,
    toolbox: Toolbox = NO_TOOLS,
    answers: Sequence[Answer] = (),
) -> tuple[pb.GenerateRequest, ResponseFacts, list[str]]:
    """The generation, the facts with their settings, and the paths of what is ignored.

    earlier, toolbox, answers: as of convert.generation.
    Raises: InvalidArgument, FeatureNotSupported.
    """
    if toolbox is NO_TOOLS:
        _refuse_server_tools(asked)
    request = convert.generation(asked, facts, earlier, toolbox=toolbox, answers=answers)
    ignored = [
        *add_user(request.labels, user=asked.user, safety_identifier=asked.safety_identifier),
        *add_metadata(request, asked.metadata),
        *convert.ignored_includes(asked),
    ]
    return request, convert.with_settings(facts, request), ignored


def _refuse_server_tools(asked: ResponseRequest) -> None:
    """Of requests that no gateway waits for, such as those of batches."""
    for number, tool in enumerate(asked.tools or ()):
        if tool.type == "mcp":
            raise FeatureNotSupported(
                f"tools.{number}.type is not supported in a batch: nobody could approve or see what"
                " is called; only functions are",
                field=f"tools.{number}.type",
            )
