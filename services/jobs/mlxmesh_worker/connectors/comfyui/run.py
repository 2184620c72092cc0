"""One run of a prompt: found again or submitted, followed, and its outputs stored."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from mlxmesh_shared.errors import BackEndFailed, MeshError, ServiceUnavailable
from mlxmesh_worker.connectors.comfyui.api import (
    ComfyUI,
    Entry,
    Missing,
    Running,
    Waiting,
    fields_of,
)
from mlxmesh_worker.connectors.comfyui.arguments import Prompt, input_files, resolved
from mlxmesh_worker.connectors.files import Outputs, extension_of, legal_name, read_input
from mlxmesh_worker.connectors.port import Outcome, Reports, Task

PATIENCE_S = 30.0
"""How long ComfyUI may be away in the middle of its work."""
SOON_S = 0.05
ARRIVAL_S = 1.0
"""How long a prompt of a worker that died may take to appear in the queue."""
MAX_TEXT_CHARACTERS = 100_000


class PromptRun:
    """Runs one prompt once, over several attempts."""

    def __init__(self, api: ComfyUI, task: Task, prompt: Prompt, reports: Reports) -> None:
        self._api = api
        self._task = task
        self._prompt = prompt
        self._reports = reports
        self._submitting: asyncio.Task[str] | None = None
        remembered: object = task.state.get("prompt_id")
        self._remembered = isinstance(remembered, str)
        self.prompt_id = str(remembered) if self._remembered else str(uuid.uuid4())

    async def find(self) -> bool:
        """Whether an earlier attempt submitted the prompt, and it is of use; else it has an id
        under which it can be submitted.
        """
        return self._remembered and await self._found()

    async def submit(self) -> None:
        """Uploads its input files and puts the prompt into the queue."""
        needed = input_files(self._prompt, self._task.inputs)
        uploaded = {name: await self._uploaded(name) for name in sorted(needed)}
        await self._submit(resolved(self._prompt, uploaded))

    async def stop(self) -> None:
        """Takes the prompt back, wherever it is."""
        if self._submitting:
            # Else it could arrive after its cancellation.
            with suppress(MeshError):
                await self._submitting
        await self._api.cancel(self.prompt_id)

    async def follow(self, changed: asyncio.Event, interval_s: float, tell_state: bool) -> Entry:
        """Looks at it in each interval, and when something has changed, until it has ended."""
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + PATIENCE_S
        while True:
            changed.clear()
            try:
                found = await self._api.look(self.prompt_id)
                give_up_at = clock() + PATIENCE_S
            except ServiceUnavailable:
                if clock() >= give_up_at:
                    raise
                found = Running()
            if isinstance(found, Entry):
                return found
            if isinstance(found, Missing):
                raise BackEndFailed("ComfyUI does not know the prompt any more; was it restarted?")
            if isinstance(found, Waiting) or tell_state:
                await self._reports.progress(text=_state(found))
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await changed.wait()
            # Events may be many; and the history is written a little after them.
            if changed.is_set():
                await asyncio.sleep(SOON_S)

    async def collect(self, entry: Entry) -> Outcome:
        """Stores what a prompt has made. Raises: BackEndFailed if it has failed."""
        if failure := failure_of(entry):
            raise failure
        outputs = Outputs(self._reports)
        found: list[dict[str, str]] = []
        for node_id, file in _files(entry):
            made = await self._api.download(file, outputs)
            found.append({"node": node_id, "name": made.name, "file_id": made.file_id})
        result = {"prompt_id": self.prompt_id, "outputs": found, "texts": _texts(entry)}
        return Outcome(result=result, files=tuple(outputs.made))

    async def _found(self) -> bool:
        """Whether ComfyUI has the prompt that an earlier attempt remembered, and it is of use."""
        found = await self._api.look(self.prompt_id)
        if isinstance(found, Missing):
            await asyncio.sleep(ARRIVAL_S)
            found = await self._api.look(self.prompt_id)
        if isinstance(found, Entry) and failure_of(found):
            self.prompt_id, self._remembered = str(uuid.uuid4()), False
            return False
        return not isinstance(found, Missing)

    async def _submit(self, prompt: Mapping[str, Any]) -> None:
        if not self._remembered:
            await self._reports.remember({"prompt_id": self.prompt_id})
        self._submitting = asyncio.create_task(
            self._api.submit(self.prompt_id, prompt, self._prompt.targets)
        )
        # Whoever left it to a later attempt does not ask what became of it.
        self._submitting.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            chosen = await asyncio.shield(self._submitting)
        except ServiceUnavailable:
            # The answer may have been lost, not the prompt.
            if isinstance(await self._api.look(self.prompt_id), Missing):
                raise
            return
        if chosen != self.prompt_id:
            self.prompt_id = chosen
            await self._reports.remember({"prompt_id": chosen})

    async def _uploaded(self, name: str) -> str:
        content = await read_input(self._reports, name)
        stem = legal_name(f"{self._task.job_id}-{name}").replace(" ", "_")
        return await self._api.upload(stem + extension_of(content), content)


def failure_of(entry: Entry) -> BackEndFailed | None:
    """Why a prompt that has ended has no result; None if it has one."""
    status = entry.status or {}
    if status.get("status_str", "success") == "success":
        return None
    for event, data in reversed(status.get("messages", [])):
        if event == "execution_interrupted":
            return BackEndFailed("the prompt was interrupted at ComfyUI")
        if event == "execution_error":
            node = f"node {data.get('node_id')} ({data.get('node_type')})"
            text = " ".join(str(data.get("exception_message")).split())[:500]
            return BackEndFailed(f"ComfyUI failed at {node}: {data.get('exception_type')}: {text}")
    return BackEndFailed("ComfyUI failed, and does not say why")


def _state(found: Waiting | Running) -> str:
    if isinstance(found, Running):
        return "running"
    return f"waits for {found.before} other prompts" if found.before else "waits"


def _files(entry: Entry) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The files that were saved; those of previews only if there are no others."""
    found = [
        (node_id, item)
        for node_id, output in entry.outputs.items()
        for items in output.values()
        for item in map(fields_of, cast("list[object]", items) if isinstance(items, list) else [])
        if item.get("filename")
    ]
    saved = [(node_id, item) for node_id, item in found if item.get("type") == "output"]
    return saved or found


def _texts(entry: Entry) -> dict[str, list[str]]:
    """The texts that nodes show, by node."""
    found: dict[str, list[str]] = {}
    left = MAX_TEXT_CHARACTERS
    for node_id, output in entry.outputs.items():
        items: object = output.get("text")
        for item in cast("list[object]", items) if isinstance(items, list) else []:
            if isinstance(item, str) and len(item) <= left:
                left -= len(item)
                found.setdefault(node_id, []).append(item)
    return found
