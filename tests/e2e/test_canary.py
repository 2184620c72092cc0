"""What callers say and get, their keys and tokens, is nowhere in what the mesh tells."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import grpc
import httpx2
import pytest
from grpc import aio
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from mlxmesh.access.v1.access_pb2 import (
    ACCESS_ROLE_ADMIN,
    CreateKeyRequest,
    CreateUserRequest,
    GetSignInOptionsRequest,
    SignInRequest,
)
from mlxmesh.access.v1.access_pb2_grpc import AccessServiceStub
from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    ChatInput,
    ChatMessage,
    Choices,
    CompleteRequest,
    CountTokensRequest,
    GenerateRequest,
    GenerateResponse,
    Role,
    TokenInput,
    Tool,
)
from mlxmesh.job.v1 import file_pb2, job_pb2
from mlxmesh.model.v1.ensemble_pb2 import EnsembleRecipe, SetEnsembleRequest
from mlxmesh.model.v1.experiment_pb2 import ReportOutcomeRequest, StartExperimentRequest
from mlxmesh.model.v1.model_pb2 import PullModelRequest, RegisterUpstreamRequest
from mlxmesh.model.v1.profile_pb2 import EngineProfile, SetProfileRequest
from mlxmesh.model.v1.upstream_pb2 import Upstream
from mlxmesh_shared.registry import Instance, open_registry
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.telemetry.attributes import REQUEST_ID
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh, wait_until_serving
from tests.fakes.openai_upstream import MODEL as FAR_MODEL
from tests.fakes.openai_upstream import Script, running_upstream
from tests.fakes.otlp_collector import Received, collector_beside
from tests.fakes.simulation_server import simulation_server

CANARY = "xyzzy-canary-7391"
TOKENS = [931, 937, 941, 947, 953]
GENERATION = "/mlxmesh.generation.v1.GenerationService"
ACCESS = "mlxmesh.access.v1.AccessService"
MODELS = "/mlxmesh.model.v1.ModelService"
EXPERIMENTS = "/mlxmesh.model.v1.ExperimentService"
SET_ENSEMBLE = "/mlxmesh.model.v1.EnsembleService/SetEnsemble"
SET_PROFILE = "/mlxmesh.model.v1.ProfileService/SetProfile"
BOTH = ["pocket", "pocket"]
# As an API key and as a bearer token, in headers that pass the gateway and in some that do not.
SECRETS = (
    ("authorization", f"Bearer {CANARY}"),
    ("x-api-key", CANARY),
    ("x-request-id", CANARY),
    ("traceparent", CANARY),
)
CHAT = ChatInput(messages=[ChatMessage(role=Role.ROLE_USER, content=CANARY)])


class Answer(NamedTuple):
    """How a call ended, all of it."""

    code: grpc.StatusCode
    status: str
    messages: list[bytes]


@pytest.fixture(scope="module")
def told() -> Received:
    """What the mesh told a collector."""
    return Received()


@pytest.fixture(scope="module")
def collector(told: Received) -> Iterator[str]:
    """Its endpoint."""
    with collector_beside(told) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, collector: str) -> Iterator[RunningMesh]:
    env = {"MLXMESH_LOG_LEVEL": "debug", "MLXMESH_OTLP_ENDPOINT": collector}
    running = start_mesh(tmp_path_factory.mktemp("canary"), "--tls", env=env)
    # What asks for it is refused, and there is one engine.
    done = running.command("models", "set", "pocket-mini", "--no-load-on-demand")
    assert done.returncode == 0, done.stderr
    yield running
    stop_mesh(running)


def channel_to(mesh: RunningMesh) -> aio.Channel:
    """A channel without any error handling of ours."""
    files = mesh.tls("admin")
    assert files.key is not None
    assert files.certificate is not None
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    return aio.secure_channel(mesh.address, credentials)


async def call(
    channel: aio.Channel,
    path: str,
    wire: bytes,
    *,
    timeout_s: float = 60,
    messages: int = -1,
    metadata: tuple[tuple[str, str], ...] = SECRETS,
) -> Answer:
    """Any method, as a stream of bytes; leaves after so many messages, if not negative."""
    running = channel.unary_stream(path)(wire, timeout=timeout_s, metadata=metadata)
    read: list[bytes] = []
    try:
        while len(read) != messages and (message := await running.read()) is not aio.EOF:
            read.append(cast("bytes", message))
    except aio.AioRpcError:
        pass
    running.cancel()
    received = (*(await running.initial_metadata()), *(await running.trailing_metadata()))
    return Answer(await running.code(), f"{await running.details()} {received!r}", read)


async def found(channel: aio.Channel, path: str, wire: bytes) -> Answer:
    """A call, again while its model is not found: generation follows the catalogue in moments."""
    async with asyncio.timeout(60):
        while (answer := await call(channel, path, wire)).code is grpc.StatusCode.NOT_FOUND:
            await asyncio.sleep(0.05)
    return answer


def generate(**fields: Any) -> bytes:
    return GenerateRequest(**{"model": "pocket", "max_tokens": 8, **fields}).SerializeToString()


def ensemble(name: str, **recipe: Any) -> bytes:
    made = EnsembleRecipe(description=CANARY, **recipe)
    return SetEnsembleRequest(name=name, recipe=made).SerializeToString()


def profile(chat_template: str) -> bytes:
    settings = EngineProfile(chat_template=chat_template)
    return SetProfileRequest(name="canary", settings=settings).SerializeToString()


def secrets_of(mesh: RunningMesh) -> list[str]:
    """What must be found nowhere: the canary, as text, bytes and token ids, and every key."""
    keys = [path.read_text().splitlines()[1] for path in (mesh.data_dir / "tls").glob("*.key")]
    return [CANARY, CANARY.encode().hex(), ", ".join(map(str, TOKENS)), *keys]


def logs_of(mesh: RunningMesh) -> dict[str, str]:
    return {path.stem: path.read_text() for path in (mesh.data_dir / "logs").glob("*.log")}


def telemetry_of(told: Received) -> dict[str, str]:
    """Every message, without the request ids: those are told, so that a request can be found."""
    tells_id = KeyValue(key=REQUEST_ID, value=AnyValue(string_value=CANARY)).SerializeToString()
    return {
        f"telemetry {number}": message.replace(tells_id, b"").decode(errors="replace")
        for number, message in enumerate(told.raw)
    }


async def all_told(channel: aio.Channel, told: Received) -> None:
    """Returns once a last request's telemetry is there: each process tells things in order."""
    trace_id = secrets.token_hex(16)
    metadata = (("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),)
    last = await call(channel, f"{GENERATION}/Generate", generate(prompt="x"), metadata=metadata)
    assert last.code is grpc.StatusCode.OK, last.status
    await told.wait_for(
        lambda _: (
            {"gateway", "generation", "engine"}
            == {span.service for span in list(told.spans) if span.trace_id == trace_id}
        )
    )
    await told.wait_for(
        lambda _: any(record.trace_id.hex() == trace_id for record in list(told.log_records))
    )


def leaks(
    mesh: RunningMesh, told: Received, answers: Iterable[Answer] = (), *more: str
) -> list[str]:
    """Where a secret was found: names of logs, and numbers of statuses and of telemetry."""
    places = {
        **logs_of(mesh),
        **telemetry_of(told),
        **{f"status {number}": answer.status for number, answer in enumerate(answers)},
    }
    hidden = (*secrets_of(mesh), *more)
    return [name for name, text in places.items() if any(secret in text for secret in hidden)]


GOOD: list[tuple[str, bytes]] = [
    (f"{GENERATION}/Generate", generate(prompt=CANARY)),
    (f"{GENERATION}/Generate", generate(chat=CHAT)),
    (f"{GENERATION}/Generate", generate(tokens=TokenInput(token_ids=TOKENS), stop=[CANARY])),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, request_id=CANARY)),
    (f"{GENERATION}/Generate", generate(prompt="a", choice=Choices(texts=[CANARY]))),
    (f"{GENERATION}/Generate", generate(prompt="a", json_schema=f'{{"const": "{CANARY}"}}')),
    (
        f"{GENERATION}/Generate",
        generate(chat=CHAT, n=2, tools=[Tool(name="a", description=CANARY)]),
    ),
    (
        f"{GENERATION}/Complete",
        CompleteRequest(
            generation=GenerateRequest(model="pocket", prompt=CANARY, max_tokens=4)
        ).SerializeToString(),
    ),
    (
        f"{GENERATION}/CountTokens",
        CountTokensRequest(model="pocket", prompt=CANARY).SerializeToString(),
    ),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, session_id=CANARY)),
    (SET_PROFILE, profile(f"{CANARY}{{{{ messages[0].content }}}}")),
    (
        SET_ENSEMBLE,
        ensemble("cascade", cascade={"models": BOTH, "json_schema": f'{{"const": "{CANARY}"}}'}),
    ),
    (SET_ENSEMBLE, ensemble("vote", vote={"models": BOTH, "answer_pattern": CANARY})),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, model="vote")),
]
BAD: list[tuple[str, bytes]] = [
    (f"{GENERATION}/Generate", generate(prompt=CANARY, sampling=Sampling(top_p=7))),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, stop=["", CANARY])),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, stop=[CANARY * 50])),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, json_schema=CANARY)),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, request_id=f"{CANARY} {CANARY}")),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, labels={f"{CANARY} {CANARY}": CANARY})),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, regex=f"({CANARY}")),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, tools=[Tool(name=CANARY)])),
    (f"{GENERATION}/Generate", generate(prompt=CANARY * 20_000)),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, model="no-such-model")),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, model="pocket-mini")),
    (f"{GENERATION}/Generate", generate(tokens=TokenInput(token_ids=[*TOKENS, 4_000_000]))),
    (
        f"{GENERATION}/Generate",
        generate(chat=ChatInput(messages=[ChatMessage(content=CANARY)])),
    ),
    (f"{GENERATION}/Generate", CANARY.encode()),
    (f"{GENERATION}/Generate", b"\x0a\xff" + CANARY.encode()),
    (f"{GENERATION}/Generate", b"\x12\x11" + b"\xff" + CANARY.encode()[1:]),
    (f"{GENERATION}/{CANARY}", generate(prompt=CANARY)),
    (f"{MODELS}/GetTokenizer", generate(prompt=CANARY)),
    (f"{MODELS}/PullModel", PullModelRequest(repo_id=CANARY, name="a b").SerializeToString()),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, session_id=f"{CANARY} {CANARY}")),
    (f"{GENERATION}/Generate", generate(prompt=CANARY, model="cascade", json_schema=CANARY)),
    (
        f"{EXPERIMENTS}/StartExperiment",
        StartExperimentRequest(name="pocket", description=CANARY).SerializeToString(),
    ),
    (
        f"{EXPERIMENTS}/StartExperiment",
        StartExperimentRequest(name="pocket", description=CANARY * 60).SerializeToString(),
    ),
    (
        f"{EXPERIMENTS}/ReportOutcome",
        ReportOutcomeRequest(request_id=f"{CANARY} {CANARY}").SerializeToString(),
    ),
    (SET_PROFILE, profile(f"{{% if {CANARY}")),
    (SET_PROFILE, profile(f"{{% {CANARY} %}}")),
    (SET_ENSEMBLE, ensemble("bad", cascade={"models": BOTH, "json_schema": CANARY})),
    (
        SET_ENSEMBLE,
        ensemble("bad", cascade={"models": BOTH, "json_schema": f'{{"type": "{CANARY}"}}'}),
    ),
    (SET_ENSEMBLE, ensemble("bad", vote={"models": BOTH, "answer_pattern": f"({CANARY}"})),
    (SET_ENSEMBLE, ensemble("bad", vote={"models": BOTH, "answer_pattern": f"(?={CANARY})"})),
]


async def test_answers_and_refusals_leave_no_trace(mesh: RunningMesh, told: Received) -> None:
    async with channel_to(mesh) as channel:
        good = [await found(channel, path, wire) for path, wire in GOOD]
        bad = [await call(channel, path, wire) for path, wire in BAD]
        await all_told(channel, told)
    assert [answer.code.name for answer in good] == ["OK"] * len(good)
    assert [at for at, answer in enumerate(bad) if answer.code is grpc.StatusCode.OK] == []
    assert "UNKNOWN" not in [answer.code.name for answer in bad]
    assert leaks(mesh, told, [*good, *bad], CANARY.replace("-", "_")) == []


async def test_output_leaves_no_trace(mesh: RunningMesh, told: Received) -> None:
    story = ChatInput(
        messages=[ChatMessage(role=Role.ROLE_USER, content="Tell me a long story about a fox.")]
    )
    async with channel_to(mesh) as channel:
        answer = await call(channel, f"{GENERATION}/Generate", generate(chat=story, max_tokens=120))
        await all_told(channel, told)
    deltas = [GenerateResponse.FromString(message).delta for message in answer.messages]
    text = "".join(delta.text for delta in deltas)
    ids = [str(token_id) for delta in deltas for token_id in delta.token_ids]
    assert len(text) > 100
    pieces = [text[start : start + 20] for start in range(0, len(text) - 20, 20)]
    runs = [", ".join(ids[start : start + 5]) for start in range(0, len(ids) - 5, 5)]
    assert leaks(mesh, told, [answer], *pieces, *runs) == []


async def test_calls_that_are_left_or_cut_leave_no_trace(mesh: RunningMesh, told: Received) -> None:
    path, lasting = (
        f"{GENERATION}/Generate",
        generate(prompt=CANARY, max_tokens=3000, ignore_eos=True),
    )
    engine_pid = mesh.pid("engine")
    async with channel_to(mesh) as channel:
        left = await call(channel, path, lasting, messages=3)
        late = await call(channel, path, lasting, timeout_s=0.3)
        cut = asyncio.create_task(call(channel, path, lasting))
        await asyncio.sleep(0.5)
        os.kill(engine_pid, signal.SIGKILL)
        answers = [left, late, await cut]
        await asyncio.to_thread(wait_until_serving, mesh)
        await all_told(channel, told)
    codes = [answer.code.name for answer in answers]
    assert codes[:2] == ["CANCELLED", "DEADLINE_EXCEEDED"]
    assert leaks(mesh, told, answers) == []


def test_every_process_was_heard_at_debug(mesh: RunningMesh) -> None:
    """Else the tests above would pass by silence."""
    wait_until_serving(mesh)  # by health checks, which are logged at DEBUG
    logs = logs_of(mesh)
    (engine,) = [name for name in logs if name.startswith("pocket-")]
    assert set(logs) == {"gateway", "generation", "model", "runtime", "launcher", engine}
    for name in set(logs) - {"launcher"}:
        assert '"level": "debug"' in logs[name], name


async def test_every_process_told_of_itself(mesh: RunningMesh, told: Received) -> None:
    everybody = {"gateway", "generation", "model", "runtime", "engine"}
    await told.wait_for(lambda _: set(told.metrics_by_service) == everybody)
    severities = {record.severity_text for record in told.log_records}
    assert {"DEBUG", "INFO"} <= severities
    assert any(CANARY in str(span.attributes.get(REQUEST_ID)) for span in told.spans)
    assert leaks(mesh, told) == []


UPSTREAM_KEY = "xyzzy-canary-upstream-key-7391"


async def test_keys_of_upstreams_leave_no_trace(mesh: RunningMesh, told: Received) -> None:
    """Nor what is sent to them and what they answer, though they quote the key in their errors."""
    file = mesh.data_dir.parent / "upstream.key"
    file.write_text(UPSTREAM_KEY)
    async with running_upstream(UPSTREAM_KEY) as fake, channel_to(mesh) as channel:
        fake.script = Script(pieces=[CANARY], reasoning=[CANARY])
        upstream = Upstream(base_url=fake.url, model_id=FAR_MODEL, key=f"file:{file}")
        register = RegisterUpstreamRequest(name="far", upstream=upstream).SerializeToString()
        generation = f"{GENERATION}/Generate", generate(model="far", chat=CHAT)
        answers = [
            await call(channel, f"{MODELS}/RegisterUpstream", register),
            await found(channel, *generation),
        ]
        said = {"error": {"message": f"{UPSTREAM_KEY} {CANARY}", "code": UPSTREAM_KEY}}
        for status in (400, 401, 404, 429, 500):
            fake.script = Script(status=status, body=said)
            answers.append(await call(channel, *generation))
        fake.script = Script(raw=b"data: " + UPSTREAM_KEY.encode() + b"\n\n")
        answers.append(await call(channel, *generation))
        fake.script, fake.key = Script(), "another"
        answers.append(await call(channel, *generation))
        for wrong in (
            Upstream(base_url=f"https://u:{UPSTREAM_KEY}@host/v1", model_id="m"),
            Upstream(base_url="https://host/v1", model_id="m", key=UPSTREAM_KEY),
        ):
            request = RegisterUpstreamRequest(name="wrong", upstream=wrong)
            path = f"{MODELS}/RegisterUpstream"
            answers.append(await call(channel, path, request.SerializeToString()))
        await all_told(channel, told)
    codes = [answer.code.name for answer in answers]
    assert codes[:2] == ["OK", "OK"]
    assert {"OK", "UNKNOWN", "INTERNAL"} & set(codes[2:]) == set()
    assert leaks(mesh, told, [], UPSTREAM_KEY) == []
    everything = [answer.status + str(answer.messages) for answer in answers]
    assert [at for at, each in enumerate(everything) if UPSTREAM_KEY in each] == []
    assert UPSTREAM_KEY.encode() not in (mesh.data_dir / "model.db").read_bytes()


JOBS = "/mlxmesh.job.v1.JobService"
FILES = "/mlxmesh.job.v1.FileService"
BATCH_ENDPOINT = "/v1/chat/completions"
ENDED = {job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}


def batch_lines() -> bytes:
    """A request that is answered, and one that is refused."""
    message = {"role": "user", "content": CANARY}
    body = {"model": "pocket", "messages": [message], "max_tokens": 4}
    lines: list[dict[str, object]] = [
        {"custom_id": f"{CANARY}-1", "method": "POST", "url": BATCH_ENDPOINT, "body": body},
        {
            "custom_id": f"{CANARY}-2",
            "method": "POST",
            "url": BATCH_ENDPOINT,
            "body": {**body, "temperature": CANARY},
        },
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


async def uploaded(channel: aio.Channel, content: bytes) -> tuple[str, list[Answer]]:
    """The id of a file, and the answers."""
    create = file_pb2.CreateFileRequest(name=CANARY, purpose=file_pb2.FILE_PURPOSE_BATCH)
    created = await call(channel, f"{FILES}/CreateFile", create.SerializeToString())
    assert created.code is grpc.StatusCode.OK, created.status
    file_id = file_pb2.CreateFileResponse.FromString(created.messages[0]).file.file_id
    append = file_pb2.AppendFileRequest(file_id=file_id, data=content)
    finish = file_pb2.FinishFileRequest(file_id=file_id, size_bytes=len(content))
    answers = [
        created,
        await call(channel, f"{FILES}/AppendFile", append.SerializeToString()),
        await call(channel, f"{FILES}/FinishFile", finish.SerializeToString()),
    ]
    return file_id, answers


async def ended(channel: aio.Channel, submit: job_pb2.SubmitJobRequest) -> job_pb2.Job:
    """A job at its end."""
    answer = await call(channel, f"{JOBS}/SubmitJob", submit.SerializeToString())
    assert answer.code is grpc.StatusCode.OK, answer.status
    watch = job_pb2.WatchJobRequest(job_id=submit.job_id).SerializeToString()
    async with asyncio.timeout(60):
        while True:
            answer = await call(channel, f"{JOBS}/WatchJob", watch)
            changes = map(job_pb2.WatchJobResponse.FromString, answer.messages)
            jobs = [change.job for change in changes if change.HasField("job")]
            if jobs and jobs[-1].state in ENDED:
                return jobs[-1]


async def by_connector(channel: aio.Channel, mesh: RunningMesh) -> dict[str, job_pb2.Job]:
    """Jobs by name, of a back end that the worker finds in the registry."""
    given = {
        "no-json": f"{{{CANARY}",
        "no-such-field": json.dumps({CANARY: CANARY}),
        "simulated": json.dumps({"value": CANARY}),
    }
    registry = open_registry(MeshSettings(data_dir=mesh.data_dir))
    async with simulation_server() as back_end:
        instance = Instance("simulation_http", "simulation", back_end.url, os.getpid())
        await registry.register(instance)
        try:
            jobs: dict[str, job_pb2.Job] = {}
            for name, arguments in given.items():
                work = job_pb2.ConnectorWork(connector="simulation_http", arguments_json=arguments)
                submit = job_pb2.SubmitJobRequest(job_id=name, connector=work)
                jobs[name] = await ended(channel, submit)
        finally:
            await registry.deregister(instance)
            await registry.close()
    return jobs


async def test_jobs_batches_and_files_leave_no_trace(mesh: RunningMesh, told: Received) -> None:
    """Neither prompts, outputs, custom ids and names of files, nor what is refused."""
    async with channel_to(mesh) as channel:
        file_id, answers = await uploaded(channel, batch_lines())
        broken_id, more = await uploaded(channel, f"{CANARY}\n".encode())
        generation = GenerateRequest(model="pocket", chat=CHAT, max_tokens=4)
        illegal = GenerateRequest(model="pocket", prompt="a", regex=f"({CANARY}")
        works: dict[str, dict[str, Any]] = {
            "whole": {"generation": generation},
            "refused": {"generation": illegal},
            "batch": {"batch": {"input_file_id": file_id, "endpoint": BATCH_ENDPOINT}},
            "broken": {"batch": {"input_file_id": broken_id, "endpoint": BATCH_ENDPOINT}},
        }
        jobs = {
            name: await ended(channel, job_pb2.SubmitJobRequest(job_id=name, **work))
            for name, work in works.items()
        }
        wrong = job_pb2.SubmitJobRequest(job_id=f"{CANARY} {CANARY}", generation=generation)
        answers.append(await call(channel, f"{JOBS}/SubmitJob", wrong.SerializeToString()))
        jobs |= await by_connector(channel, mesh)
        await all_told(channel, told)
    states = {name: job_pb2.JobState.Name(job.state) for name, job in jobs.items()}
    assert states == {
        "whole": "JOB_STATE_COMPLETED",
        "refused": "JOB_STATE_FAILED",
        "batch": "JOB_STATE_COMPLETED",
        "broken": "JOB_STATE_FAILED",
        "no-json": "JOB_STATE_FAILED",
        "no-such-field": "JOB_STATE_FAILED",
        "simulated": "JOB_STATE_COMPLETED",
    }
    files = (jobs["batch"].batch.output_file_id, jobs["batch"].batch.error_file_id)
    assert all(files)  # the request with an illegal value has a result, which is an error
    assert {"jobs", "worker"} <= logs_of(mesh).keys()
    assert leaks(mesh, told, [*answers, *more]) == []


PASSWORD = "xyzzy-canary-password-7391"
WRONG_PASSWORD = "xyzzy-canary-password-wrong"
WRONG_KEY = "mm_Canary00_xyzzy-canary-wrong-key-7391"


def start_access(mesh: RunningMesh, endpoint: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlxmesh_access", "--data-dir", str(mesh.data_dir)]
    command += ["--tls-dir", str(mesh.data_dir / "tls"), "--log-level", "debug"]
    command += ["--otlp-endpoint", endpoint, "--log-format", "json"]
    with (mesh.data_dir / "logs" / "access.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


async def use_secrets(mesh: RunningMesh, channel: aio.Channel) -> tuple[list[Answer], list[str]]:
    """Signs in, and calls with keys, over gRPC and HTTP; returns the answers, and the secrets."""
    access = AccessServiceStub(channel)
    user = CreateUserRequest(name="canary", password=PASSWORD, role=ACCESS_ROLE_ADMIN)
    async with asyncio.timeout(60):
        while True:
            try:
                # Once the gateway knows this one: else it has the launcher start another.
                await access.GetSignInOptions(GetSignInOptionsRequest())
                break
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.2)
    await access.CreateUser(user)
    session = await access.SignIn(SignInRequest(name="canary", password=PASSWORD))
    token = session.tokens.access_token
    mine = (("authorization", f"Bearer {token}"),)
    key = (await access.CreateKey(CreateKeyRequest(name="canary"), metadata=mine)).secret
    wrong = SignInRequest(name="canary", password=WRONG_PASSWORD)
    generation = f"{GENERATION}/Generate", generate(prompt="x")
    answers = [
        await call(channel, f"/{ACCESS}/SignIn", wrong.SerializeToString()),
        await call(channel, *generation, metadata=(("x-api-key", key),)),
        await call(channel, *generation, metadata=mine),
        await call(channel, *generation, metadata=(("x-api-key", WRONG_KEY),)),
        await call(channel, *generation, metadata=(("authorization", f"Bearer {token}x"),)),
    ]
    assert [answer.code.name for answer in answers] == [
        "UNAUTHENTICATED",
        "OK",
        "OK",
        "UNAUTHENTICATED",
        "UNAUTHENTICATED",
    ]
    said = [await http_status(mesh, secret) for secret in (key, token, WRONG_KEY)]
    assert said == [200, 200, 401]
    return answers, [PASSWORD, WRONG_PASSWORD, WRONG_KEY, key, token, session.tokens.refresh_token]


async def http_status(mesh: RunningMesh, secret: str) -> int:
    """Of a request with a key, from a client that has no certificate."""
    (gateway,) = [one for one in mesh.status()["instances"] if one["service"] == "gateway"]
    context = ssl.create_default_context(cafile=mesh.data_dir / "tls" / "ca.crt")
    async with httpx2.AsyncClient(verify=context) as client:
        url = f"https://{gateway['http']}/v1/models"
        return (await client.get(url, headers={"authorization": f"Bearer {secret}"})).status_code


async def test_keys_passwords_and_sessions_leave_no_trace(
    mesh: RunningMesh, told: Received, collector: str
) -> None:
    """The last test of this mesh: afterwards it has users."""
    access = start_access(mesh, collector)
    try:
        async with channel_to(mesh) as channel:
            answers, hidden = await use_secrets(mesh, channel)
            await all_told(channel, told)
            await asyncio.sleep(3)  # usage is on its way, by disk
    finally:
        access.terminate()
        await asyncio.to_thread(access.wait, 60)
    assert '"level": "debug"' in logs_of(mesh)["access"]
    assert leaks(mesh, told, answers, *hidden) == []
    files = [path for path in mesh.data_dir.rglob("*") if path.is_file()]
    stored = {path.name: path.read_bytes() for path in files if "tls" not in path.parts}
    assert {"gateway-policies.json", "access.db"} <= stored.keys()
    # Of a key not even the part that is not displayed.
    texts = [secret.rpartition("_")[2] if secret.startswith("mm_") else secret for secret in hidden]
    found = {name for name, content in stored.items() for text in texts if text.encode() in content}
    assert found == set()
