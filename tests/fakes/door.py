"""A door that answers every call at once: the edges alone are what is tested."""

from __future__ import annotations

from google.protobuf.message import Message

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.job.v1 import file_pb2 as f
from mlxmesh.job.v1 import job_pb2 as j
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.forwarding.routes import PUBLIC_SERVICES
from mlxmesh_shared.errors import GenerationNotFound, ModelNotFound
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.rules import Validator
from tests.fakes.scripted import Script, complete_response, numbered

MODELS = ("pocket", "pocket-mini")
USAGE = g.Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2)
STARTED = g.Started(
    request_id="r-1",
    model="pocket",
    model_version=1,
    engine_id="pocket@1/0",
    prompt_tokens=3,
    cached_tokens=1,
    seed=7,
)
FINISHED = g.Finished(
    finish_reason=g.FINISH_REASON_STOP,
    stop_token_id=2,
    usage=USAGE,
    total_usage=USAGE,
    timings=g.Timings(queue_ms=1),
)

FILE_BYTES = b"some bytes"
FILE = f.File(
    file_id="file-1",
    name="in.jsonl",
    purpose=f.FILE_PURPOSE_BATCH,
    size_bytes=len(FILE_BYTES),
    complete=True,
)


class FakeDoor:
    """Satisfies ServesCalls: checks each request by the contract's rules, as the door does.

    Knows the MODELS, and no generation to attach to, unless it has a script.
    """

    def __init__(self, script: Script | None = None) -> None:
        """script: what every generation writes after Started."""
        self.script = script
        self.requests: list[object] = []
        """What was asked, newest last; at most 100."""
        self._parser = RequestParser(Validator.for_services(*PUBLIC_SERVICES))

    async def serve(self, call: PublicCall) -> bytes | None:
        request = await self._parser.parse(call.route.request_class, call.request, lambda: "")
        self.requests = [*self.requests[-99:], request]
        match request:
            case g.GenerateRequest():
                for message in self._messages(request):
                    await call.write(message.SerializeToString())
                return None
            case g.CompleteRequest():
                _check_model(request.generation.model)
                if self.script is not None:
                    return complete_response(STARTED, self.script).SerializeToString()
                answer = g.CompleteResponse(
                    started=STARTED, text="a b", token_ids=[5, 2], finished=FINISHED
                )
                return answer.SerializeToString()
            case g.AttachGenerationRequest() if self.script is not None:
                for message in self._messages(request.generation)[request.after_sequence :]:
                    attached = g.AttachGenerationResponse(message=message, started=STARTED)
                    await call.write(attached.SerializeToString())
                return None
            case g.CountTokensRequest():
                _check_model(request.model)
                return g.CountTokensResponse(tokens=3).SerializeToString()
            case m.ListModelsRequest():
                return m.ListModelsResponse(models=map(_model, MODELS)).SerializeToString()
            case m.GetModelRequest():
                _check_model(request.model)
                return m.GetModelResponse(model=_model(request.model)).SerializeToString()
            case f.ReadFileRequest():
                await call.write(f.ReadFileResponse(data=FILE_BYTES).SerializeToString())
                return None
            case _:
                return _of_jobs(request).SerializeToString()

    def _messages(self, request: g.GenerateRequest) -> list[g.GenerateResponse]:
        if self.script is None:
            return messages(request)
        started, *_ = messages(request)
        return [started, *(numbered(one, number) for number, one in enumerate(self.script, 2))]


def _of_jobs(request: object) -> Message:
    """The jobs service's answers: there is one file, and each job is a batch that runs."""
    match request:
        case f.CreateFileRequest():
            return f.CreateFileResponse(file=FILE)
        case f.AppendFileRequest():
            return f.AppendFileResponse(size_bytes=request.offset + len(request.data))
        case f.FinishFileRequest():
            return f.FinishFileResponse(file=FILE)
        case f.GetFileRequest():
            return f.GetFileResponse(file=FILE)
        case f.ListFilesRequest():
            return f.ListFilesResponse(files=[FILE])
        case f.DeleteFileRequest():
            return f.DeleteFileResponse()
        case j.SubmitJobRequest():
            return j.SubmitJobResponse(job=_batch(request.job_id))
        case j.GetJobRequest():
            work = j.BatchWork(input_file_id=FILE.file_id, endpoint="/v1/completions")
            submitted = j.SubmitJobRequest(batch=work)
            return j.GetJobResponse(job=_batch(request.job_id), submitted=submitted)
        case j.ListJobsRequest():
            return j.ListJobsResponse(jobs=[_batch("batch-1")])
        case j.CancelJobRequest():
            return j.CancelJobResponse(job=_batch(request.job_id))
        case _:
            raise GenerationNotFound("there is no such generation")


def _batch(job_id: str) -> j.Job:
    return j.Job(
        job_id=job_id,
        kind=j.JOB_KIND_BATCH,
        state=j.JOB_STATE_RUNNING,
        batch=j.BatchResult(total=3),
    )


def messages(request: g.GenerateRequest) -> list[g.GenerateResponse]:
    """A whole stream."""
    _check_model(request.model)
    started = g.Started()
    started.CopyFrom(STARTED)
    started.request_id = request.request_id or STARTED.request_id
    return [
        g.GenerateResponse(sequence=1, started=started),
        g.GenerateResponse(sequence=2, delta=g.Delta(text="a ", token_ids=[5])),
        g.GenerateResponse(sequence=3, delta=g.Delta(text="b", token_ids=[2])),
        g.GenerateResponse(sequence=4, finished=FINISHED),
    ]


def _check_model(reference: str) -> None:
    if reference.partition("@")[0].partition(":")[0] not in MODELS:
        raise ModelNotFound("there is no such model", field="model")


def _model(reference: str) -> m.Model:
    name = reference.partition("@")[0].partition(":")[0]
    version = m.ModelVersion(version=1, state=m.VERSION_STATE_READY, context_tokens=2048)
    return m.Model(name=name, versions=[version], default_version=1)
