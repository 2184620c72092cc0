"""A generation service that writes one script after another, and retains what it wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_shared.errors import GenerationNotFound
from tests.fakes.public_services import FakeGeneration
from tests.fakes.scripted import Script, complete_response, numbered


class RetainingGeneration(FakeGeneration):
    """Each generation is the next of the scripts, the last one again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[Script] = []
        self.retained: dict[str, tuple[g.GenerateRequest, g.CompleteResponse]] = {}

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[g.GenerateResponse]:
        self.requests.append(request)
        self._enter(context)
        started = g.Started(request_id=request.request_id or "r-1", model=request.model)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if request.keep_request:
            whole = complete_response(started, script)
            self.retained[request.request_id] = (request, whole)
        yield g.GenerateResponse(sequence=1, started=started)
        for number, message in enumerate(script, 2):
            yield numbered(message, number)
            await self.go_on.wait()

    async def GetGeneration(self, request: Any, context: Any) -> g.GetGenerationResponse:
        found = self.retained.get(request.request_id)
        if found is None:
            raise GenerationNotFound("it is not retained")
        asked, whole = found
        return g.GetGenerationResponse(
            generation=asked,
            started=whole.started,
            text=whole.text,
            reasoning_text=whole.reasoning_text,
            token_ids=whole.token_ids,
            tool_calls=whole.tool_calls,
            finished=whole.finished,
        )

    async def CancelGeneration(self, request: Any, context: Any) -> g.CancelGenerationResponse:
        self.cancelled.append(request.request_id)
        if self.retained.pop(request.request_id, None) is None:
            raise GenerationNotFound("it is not retained")
        return g.CancelGenerationResponse()
