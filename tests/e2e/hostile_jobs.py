"""Illegal messages for jobs, files, upstreams, and the requests of batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.job.v1 import file_pb2, job_pb2, worker_pb2
from mlxmesh.model.v1 import model_pb2
from mlxmesh.model.v1.upstream_pb2 import Upstream
from tests.e2e.hostile_routing import BAD_MODELS, INFINITY, MODELS, NAN, Cases

JOBS = "/mlxmesh.job.v1.JobService"
FILES = "/mlxmesh.job.v1.FileService"
TRANSLATION = "/mlxmesh.job.v1.TranslationService"
TRANSLATE = f"{TRANSLATION}/TranslateRequest"
STREAMING = {f"{JOBS}/WatchJob", f"{JOBS}/ReadBatch", f"{FILES}/ReadFile"}

_BAD_IDS = ("a b", "../x", "a\x00", "x" * 97)
_BAD_NAMES = ("A b", "1", "../x", "x" * 65)
_BAD_FILE_IDS = ("a b", "../x", "a.b", "x" * 65)
_BAD_TIMES = (Timestamp(seconds=-1), Timestamp(nanos=-1), Timestamp(seconds=2**62))
_MANY = {f"k{number}": "x" for number in range(17)}


def bad_jobs() -> Cases:
    """All of them."""
    yield from _bad_submissions()
    yield from _bad_work()
    yield from _bad_reads()
    yield from _bad_lists()
    yield from _bad_queues()
    yield from _bad_files()
    yield from _bad_upstreams()
    yield from _bad_translations()


def _job(**fields: Any) -> job_pb2.SubmitJobRequest:
    work = {} if "work" in fields else {"generation": {"model": "pocket", "prompt": "Hi"}}
    fields.pop("work", None)
    return job_pb2.SubmitJobRequest(**work, **fields)


_BAD_FIELDS: dict[str, tuple[Any, ...]] = {
    "job_id": ("a b", "a:b", "../x", "x" * 65),
    "queue": _BAD_NAMES,
    "priority": (-101, 101, 2**31 - 1),
    "not_before": _BAD_TIMES,
    "deadline": (*_BAD_TIMES, Timestamp(seconds=1)),
    "attempt_timeout_s": (604_801,),
    "labels": ({"A b": "x"}, {"a": "x" * 257}, _MANY),
    "retention_s": (2_592_001,),
}
_BAD_RETRIES = {
    "max_attempts": (101,),
    "initial_delay_ms": (3_600_001,),
    "max_delay_ms": (86_400_001, 2**64 - 1),
}


def _bad_submissions() -> Cases:
    jobs: list[tuple[str, job_pb2.SubmitJobRequest]] = [("work", _job(work=None))]
    for field, values in _BAD_FIELDS.items():
        jobs += [(field, _job(**{field: value})) for value in values]
    for field, values in _BAD_RETRIES.items():
        jobs += [(f"retry.{field}", _job(retry={field: value})) for value in values]
    for field, job in jobs:
        yield f"{JOBS}/SubmitJob", field, job
        many = job_pb2.SubmitJobsRequest(jobs=[_job(), job])
        yield f"{JOBS}/SubmitJobs", f"jobs[1].{field}", many
    yield f"{JOBS}/SubmitJobs", "jobs", job_pb2.SubmitJobsRequest()
    yield f"{JOBS}/SubmitJobs", "jobs", job_pb2.SubmitJobsRequest(jobs=[_job()] * 1001)
    twice = job_pb2.SubmitJobsRequest(jobs=[_job(job_id="twice"), _job(job_id="twice")])
    yield f"{JOBS}/SubmitJobs", "jobs[1].job_id", twice


def _works() -> Iterator[tuple[str, dict[str, Any]]]:
    """The field to blame, without the prefix of generations, and the work."""
    for model in BAD_MODELS[:10]:
        yield "embedding.model", {"embedding": {"model": model, "inputs": ["x"]}}
    for inputs in ([], [""], ["x"] * 2049, ["x" * 1_000_001]):
        yield "embedding.inputs", {"embedding": {"model": "pocket", "inputs": inputs}}
    embedding = {"model": "pocket", "inputs": ["x"], "dimensions": 16_385}
    yield "embedding.dimensions", {"embedding": embedding}
    for field in ("request_id", "client_data"):
        generation = {"model": "pocket", "prompt": "Hi", field: "x"}
        yield field, {"generation": generation}
    for field in ("detached", "keep_request"):
        generation = {"model": "pocket", "prompt": "Hi", field: True}
        yield field, {"generation": generation}
    for given, value in (("max_tokens", 0), ("priority", 101), ("n", 33), ("model", "a/b")):
        generation = {"model": "pocket", "prompt": "Hi", given: value}
        yield given, {"generation": generation}
    yield "input", {"generation": {"model": "pocket"}}
    yield from _batches_and_connectors()


def _batches_and_connectors() -> Iterator[tuple[str, dict[str, Any]]]:
    chat = "/v1/chat/completions"
    for file_id in ("", *_BAD_FILE_IDS):
        yield "batch.input_file_id", {"batch": {"input_file_id": file_id, "endpoint": chat}}
    for endpoint in ("", "/v1/models", "http://127.0.0.1/v1/chat/completions", f"{chat}/"):
        yield "batch.endpoint", {"batch": {"input_file_id": "file-1", "endpoint": endpoint}}
    batch = {"input_file_id": "file-1", "endpoint": chat}
    yield "batch.max_running", {"batch": {**batch, "max_running": 4097}}
    for metadata in (_MANY, {"": "x"}, {"k" * 65: "x"}, {"k": "x" * 513}):
        yield "batch.metadata", {"batch": {**batch, "metadata": metadata}}
    for name in ("", *_BAD_NAMES):
        yield "connector.connector", {"connector": {"connector": name}}
    comfyui = {"connector": "comfyui_http"}
    for operation in _BAD_NAMES:
        yield "connector.operation", {"connector": {**comfyui, "operation": operation}}
    large = {**comfyui, "arguments_json": "x" * 4_000_001}
    yield "connector.arguments_json", {"connector": large}
    many = dict.fromkeys(_MANY, "file-1")
    for files in (many, {"A b": "file-1"}, {"image": "../x"}):
        yield "connector.input_file_ids", {"connector": {**comfyui, "input_file_ids": files}}


def _bad_work() -> Cases:
    for field, work in _works():
        yield f"{JOBS}/SubmitJob", field, _job(work=None, **work)


def _bad_reads() -> Cases:
    for job_id in ("", *_BAD_IDS):
        for name in ("GetJob", "CancelJob", "RetryJob", "WatchJob", "ReadBatch"):
            request = getattr(job_pb2, f"{name}Request")(job_id=job_id)
            yield f"{JOBS}/{name}", "job_id", request
    watch = job_pb2.WatchJobRequest(job_id="a", after_sequence=2**64 - 1)
    yield f"{JOBS}/WatchJob", "after_sequence", watch
    yield f"{JOBS}/ReadBatch", "after", job_pb2.ReadBatchRequest(job_id="a", after=50_001)


_BAD_LISTS: dict[str, tuple[Any, ...]] = {
    "page_size": (-1, 1001),
    "page_token": ("\x00", "x", "x" * 513),
    "states": ([job_pb2.JOB_STATE_WAITING] * 9,),
    "kinds": ([job_pb2.JOB_KIND_BATCH] * 9,),
    "queue": _BAD_NAMES,
    "batch_id": _BAD_IDS,
    "principal": ("x" * 257,),
    "labels": ({"A b": "x"}, dict.fromkeys("abcde", "x")),
    "created_after": _BAD_TIMES,
    "created_before": _BAD_TIMES,
    "after_job_id": _BAD_IDS,
}


def _bad_lists() -> Cases:
    for field, values in _BAD_LISTS.items():
        for value in values:
            yield f"{JOBS}/ListJobs", field, job_pb2.ListJobsRequest(**{field: value})


_BAD_SETTINGS: dict[str, tuple[Any, ...]] = {
    "max_running": (100_001,),
    "max_running_per_principal": (100_001,),
    "max_waiting_per_principal": (10_000_001,),
    "starts_per_second": (-1, 100_001, NAN, INFINITY),
    "burst": (100_001,),
}


def _bad_queues() -> Cases:
    for name in ("", *_BAD_NAMES):
        yield f"{JOBS}/GetQueue", "name", job_pb2.GetQueueRequest(name=name)
        settings = job_pb2.QueueSettings(paused=True)
        setting = job_pb2.SetQueueRequest(name=name, settings=settings)
        yield f"{JOBS}/SetQueue", "name", setting
    yield f"{JOBS}/SetQueue", "settings", job_pb2.SetQueueRequest(name="hostile")
    for field, values in _BAD_SETTINGS.items():
        for value in values:
            settings = job_pb2.QueueSettings(**{field: value})
            setting = job_pb2.SetQueueRequest(name="hostile", settings=settings)
            yield f"{JOBS}/SetQueue", f"settings.{field}", setting


_BAD_FILES: dict[str, tuple[Any, ...]] = {
    "name": ("", "../x", "a\x00", "x" * 256),
    "purpose": (0, file_pb2.FILE_PURPOSE_BATCH_OUTPUT, file_pb2.FILE_PURPOSE_JOB_OUTPUT, 99),
    "media_type": ("text", "a/b/c", "text/plain; charset=x", "x" * 64 + "/y"),
    "expires_after_s": (31_536_001,),
    "job_id": ("a b", "one"),
}


def _bad_files() -> Cases:
    for field, values in _BAD_FILES.items():
        for value in values:
            create = file_pb2.CreateFileRequest(name="x", purpose=file_pb2.FILE_PURPOSE_BATCH)
            setattr(create, field, value)
            yield f"{FILES}/CreateFile", field, create
    for file_id in ("", *_BAD_FILE_IDS):
        append = file_pb2.AppendFileRequest(file_id=file_id, data=b"x")
        yield f"{FILES}/AppendFile", "file_id", append
        for name in ("FinishFile", "GetFile", "ReadFile", "DeleteFile"):
            request = getattr(file_pb2, f"{name}Request")(file_id=file_id)
            yield f"{FILES}/{name}", "file_id", request
    for size in (2**40 + 1, 2**64 - 1):
        append = file_pb2.AppendFileRequest(file_id="a", data=b"x", offset=size)
        yield f"{FILES}/AppendFile", "offset", append
        finish = file_pb2.FinishFileRequest(file_id="a", size_bytes=size)
        yield f"{FILES}/FinishFile", "size_bytes", finish
        read = file_pb2.ReadFileRequest(file_id="a", offset=size)
        yield f"{FILES}/ReadFile", "offset", read
    for data in (b"", b"x" * 1_048_577):
        append = file_pb2.AppendFileRequest(file_id="a", data=data)
        yield f"{FILES}/AppendFile", "data", append
    for digest in ("x", "A" * 64, "a" * 65):
        finish = file_pb2.FinishFileRequest(file_id="a", sha256=digest)
        yield f"{FILES}/FinishFile", "sha256", finish
    listings: dict[str, tuple[Any, ...]] = {
        "page_size": (-1, 1001),
        "page_token": ("\x00", "x", "x" * 513),
        "job_id": _BAD_IDS,
        "after_file_id": _BAD_FILE_IDS,
    }
    for field, values in listings.items():
        for value in values:
            yield f"{FILES}/ListFiles", field, file_pb2.ListFilesRequest(**{field: value})


_BAD_UPSTREAMS: dict[str, tuple[Any, ...]] = {
    "base_url": (
        "",
        "x",
        "ftp://host/v1",
        "http://u:p@host/v1",
        "http://",
        "http://h/" + "x" * 2048,
    ),
    "model_id": ("", "a b", "a?b", "a\x00", "x" * 257),
    "key": ("sk-the-key-itself", "env:", "env:A B", "file:relative", "x" * 4097),
    "capabilities": ([0], [1] * 17),
    "max_concurrent": (0, 10_001),
}


def _bad_upstreams() -> Cases:
    method = f"{MODELS}/RegisterUpstream"
    good: dict[str, Any] = {"base_url": "http://127.0.0.1:1/v1", "model_id": "m"}
    for field, values in _BAD_UPSTREAMS.items():
        for value in values:
            upstream = Upstream(**{**good, field: value})
            request = model_pb2.RegisterUpstreamRequest(name="hostile", upstream=upstream)
            yield method, f"upstream.{field}", request
    for name in ("", "../../etc/passwd", "a@1", "a:b", "a\x00", "x" * 5000):
        request = model_pb2.RegisterUpstreamRequest(name=name, upstream=Upstream(**good))
        yield method, "name", request
    yield method, "upstream", model_pb2.RegisterUpstreamRequest(name="hostile")


def _bad_translations() -> Cases:
    render = f"{TRANSLATION}/RenderResponse"
    chat = "/v1/chat/completions"
    for endpoint in ("", "/v1/models", f"{chat}/", "http://127.0.0.1/v1/completions"):
        message: Message = worker_pb2.TranslateRequestRequest(endpoint=endpoint, body_json="{}")
        yield TRANSLATE, "endpoint", message
        message = worker_pb2.RenderResponseRequest(
            endpoint=endpoint, body_json="{}", failure=Failure(reason="INTERNAL")
        )
        yield render, "endpoint", message
    for body in ("", "{", "[]", "1", "[" * 100_000, '{"a":' * 200, "\x00"):
        message = worker_pb2.TranslateRequestRequest(endpoint=chat, body_json=body)
        yield TRANSLATE, "", message
    too_large = worker_pb2.TranslateRequestRequest(endpoint=chat, body_json=" " * 8_000_001)
    yield TRANSLATE, "body_json", too_large
    for body, field in (
        ('{"model": "pocket", "messages": 1}', "messages"),
        ('{"model": 1, "messages": []}', "model"),
        ('{"model": "pocket", "messages": [], "stream": true}', "stream"),
    ):
        message = worker_pb2.TranslateRequestRequest(endpoint=chat, body_json=body)
        yield TRANSLATE, field, message
    yield render, "result", worker_pb2.RenderResponseRequest(endpoint=chat, body_json="{}")
