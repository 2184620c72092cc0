"""ComfyUI's HTTP API, as its server.py has it; docs/connectors.md names the version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
from pydantic import BaseModel, ValidationError

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument
from mlxmesh_worker.connectors.files import MAX_FILE_BYTES, Outputs
from mlxmesh_worker.connectors.http import READ_TRIES, HttpClient
from mlxmesh_worker.connectors.port import Made

UPLOAD_FOLDER = "mlxmesh"
_UPLOAD_TIMEOUT_S = 120.0
_VIEW_TIMEOUT_S = 300.0


class Entry(BaseModel):
    """What the history has of a prompt that has ended."""

    outputs: dict[str, dict[str, Any]] = {}
    status: dict[str, Any] | None = None


@dataclass(frozen=True)
class Waiting:
    """A prompt that waits in the queue."""

    before: int
    """Prompts that run before it."""


@dataclass(frozen=True)
class Running:
    """A prompt that runs."""


@dataclass(frozen=True)
class Missing:
    """A prompt that ComfyUI does not know: it never came, was deleted, or ComfyUI restarted."""


class ComfyUI:
    """One ComfyUI. Raises, from every method: as HttpClient."""

    def __init__(self, http: HttpClient) -> None:
        self.http = http

    async def probe(self) -> None:
        """Checks that it answers."""
        await self.http.probe("/system_stats")

    async def submit(
        self, prompt_id: str, prompt: Mapping[str, Any], targets: Sequence[str]
    ) -> str:
        """Puts a prompt into the queue. Returns its id: versions before client-chosen ids choose
        another one.
        """
        body: dict[str, Any] = {"prompt": prompt, "prompt_id": prompt_id, "client_id": prompt_id}
        if targets:
            body["partial_execution_targets"] = list(targets)
        answer = fields_of(await self.http.json("POST", "/prompt", body=body))
        chosen = answer.get("prompt_id")
        if not isinstance(chosen, str):
            raise BackEndFailed(f"{self.http.address.described} gave a prompt no id")
        if problems := answer.get("node_errors"):
            # It would run the rest, and the missing outputs would be noticed by nobody.
            await self.cancel(chosen)
            raise InvalidArgument(explained({"node_errors": problems}), field="arguments.prompt")
        return chosen

    async def look(self, prompt_id: str) -> Entry | Waiting | Running | Missing:
        """Where a prompt is."""
        if entry := await self._history(prompt_id):
            return entry
        queue = await self.http.read_json("/queue")
        if prompt_id in _ids(queue, "queue_running"):
            return Running()
        pending = _ids(queue, "queue_pending")
        if prompt_id in pending:
            return Waiting(pending.index(prompt_id) + len(_ids(queue, "queue_running")))
        # It may have ended between the two answers.
        return await self._history(prompt_id) or Missing()

    async def cancel(self, prompt_id: str) -> None:
        """Deletes it from the queue, or interrupts it if it runs; no other prompt."""
        try:
            await self.http.json("POST", f"/api/jobs/{prompt_id}/cancel")
        except InvalidArgument:
            # Older versions have no such path, and no atomic way.
            await self.http.json("POST", "/queue", body={"delete": [prompt_id]})
            # Still older ones interrupt whatever runs, so look first.
            if isinstance(await self.look(prompt_id), Running):
                await self.http.json("POST", "/interrupt", body={"prompt_id": prompt_id})

    async def upload(self, file_name: str, content: bytes) -> str:
        """Stores an input file, over an earlier one. Returns the name by which nodes load it."""
        form = aiohttp.FormData({"overwrite": "true", "type": "input", "subfolder": UPLOAD_FOLDER})
        form.add_field(
            "image", content, filename=file_name, content_type="application/octet-stream"
        )
        async with self.http.stream(
            "POST", "/upload/image", form=form, timeout_s=_UPLOAD_TIMEOUT_S
        ) as response:
            body = b"".join([chunk async for chunk in response.chunks])
        with suppress(ValidationError):
            stored = _Uploaded.model_validate_json(body)
            return f"{stored.subfolder}/{stored.name}" if stored.subfolder else stored.name
        raise BackEndFailed(f"{self.http.address.described} did not say where it put a file")

    async def download(self, file: Mapping[str, Any], outputs: Outputs) -> Made:
        """Stores an output file."""
        query = {name: str(file.get(name, "")) for name in ("filename", "subfolder", "type")}
        async with self.http.stream(
            "GET",
            "/view",
            query=query,
            timeout_s=_VIEW_TIMEOUT_S,
            max_bytes=MAX_FILE_BYTES,
            tries=READ_TRIES,
        ) as response:
            return await outputs.store(query["filename"], response.chunks)

    async def _history(self, prompt_id: str) -> Entry | None:
        answer = await self.http.read_json(f"/history/{prompt_id}")
        try:
            return Entry.model_validate(answer[prompt_id])
        except (KeyError, TypeError):
            return None
        except ValidationError:
            raise BackEndFailed(f"{self.http.address.described} has an unknown history") from None


class _Uploaded(BaseModel):
    name: str
    subfolder: str = ""


def explained(error: object) -> str:
    """What /prompt says is wrong with a workflow, node by node."""
    fields = fields_of(error)
    texts = [_sentence(fields_of(fields.get("error")) or {"message": fields.get("error")})]
    for node_id, found in fields_of(fields.get("node_errors")).items():
        node = fields_of(found)
        problems: object = node.get("errors")
        for problem in cast("list[object]", problems) if isinstance(problems, list) else []:
            text = _sentence(fields_of(problem))
            texts.append(f"node {node_id} ({node.get('class_type')}): {text}")
    # The first one repeats the others.
    return "; ".join(texts[1:] or texts)


def _sentence(problem: Mapping[str, object]) -> str:
    parts = (problem.get("message"), problem.get("details"))
    return ": ".join(str(part) for part in parts if part)


def fields_of(value: object) -> dict[str, object]:
    """The fields of a JSON object; none of anything else."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _ids(queue: object, name: str) -> list[str]:
    """The ids of prompts in a queue, in their order. An item is (number, id, prompt, ...)."""
    items: object = fields_of(queue).get(name)
    found = cast("list[Any]", items) if isinstance(items, list) else []
    return [str(item[1]) for item in sorted(found, key=lambda item: item[0])]
