"""A1111 by HTTP: one request makes the images, while others ask for its progress.

The web UI keeps no result for later, so a repeated attempt makes the images again, with the same
seed; the work of the earlier one is interrupted.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, cast

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument, ServiceUnavailable
from mlxmesh_worker.connectors.a1111.arguments import OPERATIONS, Common, ImageToImage
from mlxmesh_worker.connectors.a1111.tasks import Tasks, explained
from mlxmesh_worker.connectors.address import parse_address
from mlxmesh_worker.connectors.arguments import parse
from mlxmesh_worker.connectors.files import Outputs, read_input
from mlxmesh_worker.connectors.http import HttpClient
from mlxmesh_worker.connectors.port import Outcome, Reports, Target, Task
from mlxmesh_worker.connectors.stopping import stopped_if_cancelled

MAX_ANSWER_BYTES = 256 * 1024 * 1024
PATIENCE_S = 30.0
"""How long it may be silent in the middle of its work."""
MAX_INFO_CHARACTERS = 100_000


class A1111Http:
    """The connector a1111_http."""

    name: ClassVar[str] = "a1111_http"
    operations: ClassVar[Sequence[str]] = tuple(OPERATIONS)

    def __init__(self, target: Target, *, interval_s: float = 0.5) -> None:
        """interval_s: how often it asks for the progress. The key is NAME:PASSWORD."""
        self._http = HttpClient(parse_address(target), authorization="Basic", explained=explained)
        self._tasks = Tasks(self._http, interval_s)
        self._interval_s = interval_s

    async def close(self) -> None:
        """As Connector."""
        await self._tasks.close()
        await self._http.close()

    async def probe(self) -> None:
        """As Connector."""
        await self._http.probe("/sdapi/v1/memory")

    def check(self, operation: str, arguments: Mapping[str, Any]) -> None:
        """As Connector."""
        parse(OPERATIONS, operation, arguments)

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """As Connector. Remembers the ids of its tasks, so that a later attempt ends them."""
        arguments = parse(OPERATIONS, task.operation, task.arguments)
        task_id = f"mlxmesh-{task.job_id}-{task.attempt}"
        earlier = [str(name) for name in task.state.get("task_ids", ())]

        async def stop() -> None:
            await self._tasks.end(task_id)

        return await stopped_if_cancelled(
            self._ran(task, arguments, task_id, earlier, reports), stop, reports
        )

    async def _ran(
        self, task: Task, arguments: Common, task_id: str, earlier: list[str], reports: Reports
    ) -> Outcome:
        body = await _body(task, arguments, reports)
        await reports.remember({"task_ids": [*earlier, task_id][-8:]})
        for name in earlier:
            await self._tasks.end(name)
        request = asyncio.create_task(
            self._http.json(
                "POST",
                f"/sdapi/v1/{task.operation}",
                body={**body, "force_task_id": task_id},
                timeout_s=None,
                max_bytes=MAX_ANSWER_BYTES,
            )
        )
        try:
            await self._follow(request, task_id, reports)
            answer = await request
        finally:
            request.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await request
        return await _stored(answer, reports)

    async def _follow(self, request: asyncio.Task[Any], task_id: str, reports: Reports) -> None:
        """Reports the progress until the request has its answer."""
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + PATIENCE_S
        while not request.done():
            await asyncio.wait({request}, timeout=self._interval_s)
            if request.done():
                return
            try:
                found = await self._tasks.progress(task_id)
                give_up_at = clock() + PATIENCE_S
            except ServiceUnavailable:
                # A connection through which nothing comes breaks silently.
                if clock() >= give_up_at:
                    raise
                continue
            if found is not None:
                await reports.progress(fraction=found[0], text=found[1])


async def _body(task: Task, arguments: Common, reports: Reports) -> dict[str, Any]:
    body = arguments.model_dump(exclude_none=True, exclude={"checkpoint", "clip_skip"})
    if arguments.seed == -1:
        body["seed"] = int.from_bytes(hashlib.sha256(task.job_id.encode()).digest()[:4])
    overridden = {
        "sd_model_checkpoint": arguments.checkpoint,
        "CLIP_stop_at_last_layers": arguments.clip_skip,
    }
    body["override_settings"] = {name: value for name, value in overridden.items() if value}
    body |= {"send_images": True, "save_images": False}
    if isinstance(arguments, ImageToImage):
        body["init_images"] = [
            await _image(image, f"init_images.{number}", task, reports)
            for number, image in enumerate(arguments.init_images)
        ]
        if arguments.mask:
            body["mask"] = await _image(arguments.mask, "mask", task, reports)
    return body


async def _image(image: str, where: str, task: Task, reports: Reports) -> str:
    """An image in base64, from an input file if it is the name of one."""
    if image not in task.inputs:
        if len(image) < 100 and not image.startswith("data:"):
            raise InvalidArgument(
                f"arguments.{where}: the job has no input file {image}", field=f"arguments.{where}"
            )
        return image
    return base64.b64encode(await read_input(reports, image)).decode()


async def _stored(answer: object, reports: Reports) -> Outcome:
    fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    images: object = fields.get("images")
    if not isinstance(images, list):
        raise BackEndFailed("A1111 answered without images")
    outputs = Outputs(reports)
    for number, image in enumerate(cast("list[object]", images), 1):
        await outputs.store_base64(f"image-{number}", str(image))
    return Outcome(result={"info": _info(fields.get("info"))}, files=tuple(outputs.made))


def _info(text: object) -> object:
    """What A1111 says about the images: seeds and all arguments."""
    if not isinstance(text, str) or len(text) > MAX_INFO_CHARACTERS:
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {}
