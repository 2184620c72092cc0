"""OpenAI-compatible servers by HTTP. They keep no work: a repeated attempt asks again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast

from mlxmesh_shared.errors import (
    BackEndFailed,
    IllegalState,
    InvalidArgument,
    ServiceUnavailable,
    TooManyRequests,
    UpstreamRefused,
)
from mlxmesh_shared.openai_upstream.client import Upstream, UpstreamClient, UpstreamLimits
from mlxmesh_worker.connectors.address import parse_address
from mlxmesh_worker.connectors.arguments import parse
from mlxmesh_worker.connectors.files import Outputs
from mlxmesh_worker.connectors.openai.arguments import OPERATIONS, Body
from mlxmesh_worker.connectors.openai.chunks import Accumulated
from mlxmesh_worker.connectors.port import Outcome, Reports, Target, Task

LIMITS = UpstreamLimits(list_timeout_s=5.0, max_body_bytes=128 * 1024 * 1024)


class OpenAIHttp:
    """The connector openai_http. Its address ends with the version, such as /v1."""

    name: ClassVar[str] = "openai_http"
    operations: ClassVar[Sequence[str]] = tuple(OPERATIONS)

    def __init__(self, target: Target) -> None:
        address = parse_address(target)
        self._client = UpstreamClient(
            Upstream(name=target.name, base_url=address.url, key=address.key), LIMITS
        )

    async def close(self) -> None:
        """As Connector."""
        await self._client.close()

    async def probe(self) -> None:
        """As Connector."""
        try:
            async with self._errors():
                await self._client.models()
        except InvalidArgument as error:
            raise ServiceUnavailable(error.message) from None

    def check(self, operation: str, arguments: Mapping[str, Any]) -> None:
        """As Connector."""
        parse(OPERATIONS, operation, arguments)

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """As Connector. Leaving a response closes its connection, which ends the work."""
        body = parse(OPERATIONS, task.operation, task.arguments)
        async with self._errors():
            match task.operation:
                case "embedding":
                    return Outcome(result=await self._client.embeddings(body.body()))
                case "image":
                    return await self._images(body, reports)
                case _:
                    return await self._stream(task.operation, body, reports)

    async def _stream(self, operation: str, body: Body, reports: Reports) -> Outcome:
        sent = {**body.body(), "stream_options": {"include_usage": True}}
        call = self._client.chat if operation == "chat" else self._client.completion
        whole, total = Accumulated(), _expected_tokens(sent)
        async with call(sent) as chunks:
            async for chunk in chunks:
                whole.take(chunk)
                done = min(whole.tokens, total or whole.tokens)
                await reports.progress(
                    fraction=done / total if total else 0.0, done=done, total=total, unit="tokens"
                )
        response = whole.response()
        if not response["choices"]:
            raise BackEndFailed("the upstream ended its answer without a choice")
        return Outcome(result=response)

    async def _images(self, body: Body, reports: Reports) -> Outcome:
        sent = body.body()
        # The newer models always send base64, and refuse the field.
        if not body.model.startswith("gpt-image"):
            sent.setdefault("response_format", "b64_json")
        answer = await self._client.images(sent)
        data: object = answer.get("data")
        if not isinstance(data, list):
            raise BackEndFailed("the upstream answered without images")
        outputs = Outputs(reports)
        described: list[dict[str, Any]] = []
        for number, item in enumerate(cast("list[dict[str, Any]]", data), 1):
            fields = dict(item)
            if content := fields.pop("b64_json", None):
                made = await outputs.store_base64(f"image-{number}", str(content))
                fields["file_id"] = made.file_id
            described.append(fields)
        return Outcome(result={**answer, "data": described}, files=tuple(outputs.made))

    @asynccontextmanager
    async def _errors(self) -> AsyncGenerator[None]:
        """Raises what the client's errors mean for a job."""
        try:
            yield
        except UpstreamRefused as error:
            # Its key and its address are the operator's; a model that is not there is the job's.
            if error.field:
                raise ServiceUnavailable(error.message) from None
            raise InvalidArgument(error.message, field="arguments") from None
        except (TooManyRequests, IllegalState) as error:
            raise ServiceUnavailable(error.message, retry_delay_s=error.retry_delay_s) from None


def _expected_tokens(body: Mapping[str, Any]) -> int:
    """The most tokens of the response; 0 if it is not known."""
    most = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    return int(most) * int(body.get("n") or 1)
