"""One request of a batch: the body of an HTTP request to that of its response."""

from __future__ import annotations

from typing import Any

from mlxmesh_shared.errors import MeshError, ModelNotAllowed
from mlxmesh_shared.model_patterns import allows
from mlxmesh_worker.convert import owner_metadata
from mlxmesh_worker.instances import Instances
from mlxmesh_worker.kinds import convert
from mlxmesh_worker.kinds.convert_stream import Received
from mlxmesh_worker.kinds.embedding import Embeddings
from mlxmesh_worker.kinds.generation import LOOK_INTERVAL_S, progress_report, run_to_end
from mlxmesh_worker.kinds.generation_run import GenerationRun
from mlxmesh_worker.kinds.sinks import WholeResponse
from mlxmesh_worker.kinds.translation_link import TranslationLink
from mlxmesh_worker.work import Assignment, AttemptFailed, Fault, Reports, fault_of


class RequestRunner:
    """Satisfies Runner. A request that is wrong has a result too: its status and error."""

    def __init__(
        self,
        instances: Instances,
        translation: TranslationLink,
        embeddings: Embeddings,
        *,
        look_interval_s: float = LOOK_INTERVAL_S,
    ) -> None:
        """instances: of the generation service."""
        self._instances = instances
        self._look_interval_s = look_interval_s
        self._translation = translation
        self._embeddings = embeddings

    async def run(self, assignment: Assignment, reports: Reports) -> Any:
        try:
            return await self._answer(assignment, reports)
        except AttemptFailed as failed:
            if failed.fault is not Fault.JOB:
                raise
            return await self._refuse(assignment, failed.error)
        except MeshError as error:
            if fault_of(error) is not Fault.JOB:
                raise
            return await self._refuse(assignment, error)

    async def _answer(self, assignment: Assignment, reports: Reports) -> Any:
        message, key = assignment.message, assignment.key
        work = message.request
        translated = await self._translation.translate(key.job_id, work.endpoint, work.body_json)
        if translated.HasField("embedding"):
            return await self._embed(assignment, translated.embedding, reports)
        request = convert.job_request(translated.generation, key.job_id)
        _check_model(tuple(message.owner.models), request.model)
        received, sink = Received(request.n or 1), WholeResponse()
        run = GenerationRun(
            instances=self._instances,
            request=request,
            metadata=owner_metadata(message.owner),
            received=received,
            sink=sink,
            timeout_s=assignment.timeout_s,
        )
        finished = await run_to_end(
            run,
            reports,
            attach=key.attempt > 1,
            received=received,
            report=progress_report(request, received, reports),
            look_interval_s=self._look_interval_s,
        )
        body = convert.answered(work, sink.response())
        rendered = await self._translation.render(key.job_id, body)
        return convert.request_result(rendered, key.job_id, received.started, finished)

    async def _embed(self, assignment: Assignment, wanted: Any, reports: Reports) -> Any:
        message, job_id = assignment.message, assignment.key.job_id
        _check_model(tuple(message.owner.models), wanted.model)
        made = await self._embeddings.embed(assignment, wanted, reports)
        body = convert.embedded(message.request, convert.embeddings(made))
        rendered = await self._translation.render(job_id, body)
        return convert.embedded_result(rendered, job_id, made)

    async def _refuse(self, assignment: Assignment, error: MeshError) -> Any:
        body = convert.refused(assignment.message.request, error)
        rendered = await self._translation.render(assignment.key.job_id, body)
        return convert.refused_result(rendered)


def _check_model(patterns: tuple[str, ...], model: str) -> None:
    """Gateways check the models of calls; those of a batch are in its file, which none reads."""
    if not allows(patterns, model):
        raise ModelNotAllowed(
            f"the owner of this batch may not use the model {model}", field="model"
        )
