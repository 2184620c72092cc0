"""A door that answers every generation with the messages that a test wrote."""

from __future__ import annotations

from collections.abc import Sequence

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_gateway.door.call import PublicCall
from tests.fakes.door import STARTED, FakeDoor


class ScriptedDoor(FakeDoor):
    """Checks requests as FakeDoor does; every generation is the same, and may be attached to."""

    def __init__(self, deltas: Sequence[g.Delta], finished: g.Finished) -> None:
        super().__init__()
        started = g.Started()
        started.CopyFrom(STARTED)
        finished.total_usage.CopyFrom(finished.usage)
        self.messages = [
            g.GenerateResponse(started=started),
            *(g.GenerateResponse(delta=delta) for delta in deltas),
            g.GenerateResponse(finished=finished),
        ]
        for number, message in enumerate(self.messages, 1):
            message.sequence = number

    async def serve(self, call: PublicCall) -> bytes | None:
        request = await self._parser.parse(call.route.request_class, call.request, lambda: "")
        self.requests = [*self.requests[-99:], request]
        match request:
            case g.GenerateRequest():
                for message in self.messages:
                    await call.write(message.SerializeToString())
                return None
            case g.AttachGenerationRequest():
                for message in self.messages[request.after_sequence :]:
                    attached = g.AttachGenerationResponse(message=message)
                    await call.write(attached.SerializeToString())
                return None
            case g.CompleteRequest():
                return self._complete().SerializeToString()
            case _:
                self.requests.pop()  # FakeDoor notes it too
                return await super().serve(call)

    def _complete(self) -> g.CompleteResponse:
        response = g.CompleteResponse(started=self.messages[0].started)
        for message in self.messages[1:-1]:
            response.text += message.delta.text
            response.reasoning_text += message.delta.reasoning_text
            for piece in message.delta.tool_calls:
                if piece.name:
                    response.tool_calls.append(piece)
                else:
                    response.tool_calls[piece.index].arguments += piece.arguments
        response.finished.CopyFrom(self.messages[-1].finished)
        return response
