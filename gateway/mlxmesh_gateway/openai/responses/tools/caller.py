"""Calls tools of the mesh for a model."""

from __future__ import annotations

from dataclasses import dataclass

from mlxmesh_gateway.http.door import HttpCalls
from mlxmesh_gateway.openai.responses.objects import JsonObject
from mlxmesh_gateway.openai.responses.toolbox import as_arguments
from mlxmesh_gateway.openai.responses.tools import convert
from mlxmesh_shared.errors import Cancelled, Draining, MeshError


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCall:
    """A call that a model asked for."""

    call_id: str
    label: str
    name: str
    arguments: str
    """As the model wrote them."""
    approval_request_id: str | None = None
    """Set if the client approved it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a call."""

    call: WantedCall
    text: str
    """What the model is told."""
    error: JsonObject | None = None


class ToolCaller:
    """Calls tools as the client of a request."""

    def __init__(self, calls: HttpCalls, request_id: str, *, max_characters: int) -> None:
        """request_id: of the generation that asks. max_characters: of a result."""
        self._calls = calls
        self._request_id = request_id
        self._max_characters = max_characters

    async def call(self, wanted: WantedCall) -> Outcome:
        """The outcome, also of a call that failed.

        Raises: MeshError if the response cannot go on either.
        """
        arguments = as_arguments(wanted.arguments)
        if arguments is None:
            text, error = convert.illegal_call("The arguments were not a JSON object.")
            return Outcome(call=wanted, text=text, error=error)
        try:
            text, failed = await convert.call_tool(
                self._calls,
                wanted.label,
                wanted.name,
                arguments,
                approved=wanted.approval_request_id is not None,
                request_id=self._request_id,
                max_characters=self._max_characters,
            )
        except (Cancelled, Draining):
            raise
        except MeshError as error:
            if self._calls.expired:
                raise
            text, failed = convert.call_failure(error)
        return Outcome(call=wanted, text=text, error=failed)
