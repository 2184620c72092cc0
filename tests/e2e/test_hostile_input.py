"""A thousand hostile requests: each gets a clear status, not to be retried, and nothing dies."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    ChatInput,
    ChatMessage,
    CompleteRequest,
    CountTokensRequest,
    GenerateRequest,
    TokenInput,
)
from mlxmesh.model.v1 import (
    artifact_pb2,
    ensemble_pb2,
    experiment_pb2,
    model_pb2,
    profile_pb2,
    rollout_pb2,
    shadow_pb2,
)
from mlxmesh.model.v1.policy_pb2 import ModelPolicy, Price
from mlxmesh.model.v1.split_pb2 import SplitArm
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import (
    ConstraintInvalid,
    ContextTooLong,
    ExperimentNotFound,
    FeatureNotSupported,
    InvalidArgument,
    MalformedMessage,
    ModelNotFound,
    OutcomeNotFound,
    ProfileNotFound,
)
from tests.e2e.running_mesh import RunningMesh

COUNT = 1000
GENERATION = "/mlxmesh.generation.v1.GenerationService"
GENERATE = f"{GENERATION}/Generate"
COMPLETE = f"{GENERATION}/Complete"
COUNT_TOKENS = f"{GENERATION}/CountTokens"
MODELS = "/mlxmesh.model.v1.ModelService"
ROLLOUTS = "/mlxmesh.model.v1.RolloutService"
EXPERIMENTS = "/mlxmesh.model.v1.ExperimentService"
ENSEMBLES = "/mlxmesh.model.v1.EnsembleService"
ARTIFACTS = "/mlxmesh.model.v1.ArtifactService"
PROFILES = "/mlxmesh.model.v1.ProfileService"
SHADOWS = "/mlxmesh.model.v1.ShadowService"
STREAMING = {
    GENERATE,
    f"{MODELS}/PullModel",
    f"{MODELS}/ImportModel",
    f"{MODELS}/LoadModel",
    f"{ARTIFACTS}/VerifyArtifacts",
}
# None of them takes an empty message, so that no raw bytes are legal by chance.
RAW_METHODS = (
    GENERATE,
    COMPLETE,
    COUNT_TOKENS,
    *(
        f"{MODELS}/{name}"
        for name in ("PullModel", "ImportModel", "RegisterModel", "GetModel", "LoadModel")
    ),
)
# What a caller must not repeat: a retry would be as hopeless as the first try.
HOPELESS = {
    cls.reason: cls.code
    for cls in (
        ConstraintInvalid, ContextTooLong, FeatureNotSupported, InvalidArgument, MalformedMessage,
        ModelNotFound, ProfileNotFound,
        ExperimentNotFound, OutcomeNotFound,
    )
}  # fmt: skip
UNSUPPORTED = {"adapter", "settings.speculative", "settings.adapters"}
NAN, INFINITY = float("nan"), float("inf")

BAD_SAMPLING: list[tuple[str, Sampling]] = [
    ("sampling.temperature", Sampling(temperature=-1)),
    ("sampling.temperature", Sampling(temperature=NAN)),
    ("sampling.temperature", Sampling(temperature=INFINITY)),
    ("sampling.top_p", Sampling(top_p=0)),
    ("sampling.top_p", Sampling(top_p=1.5)),
    ("sampling.top_p", Sampling(top_p=NAN)),
    ("sampling.top_k", Sampling(top_k=2**31)),
    ("sampling.min_p", Sampling(min_p=-0.1)),
    ("sampling.repetition_penalty", Sampling(repetition_penalty=0)),
    ("sampling.presence_penalty", Sampling(presence_penalty=3)),
    ("sampling.frequency_penalty", Sampling(frequency_penalty=-3)),
    ("sampling.logit_bias", Sampling(logit_bias={4_000_000_000: 1.0})),
    ("sampling.logit_bias", Sampling(logit_bias={1: INFINITY})),
]
BAD_POLICIES = [
    ("load_timeout_s", ModelPolicy(load_timeout_s=0)),
    ("load_timeout_s", ModelPolicy(load_timeout_s=86_401)),
    ("idle_unload_s", ModelPolicy(idle_unload_s=31_536_001)),
    ("min_replicas", ModelPolicy(min_replicas=65)),
    ("max_replicas", ModelPolicy(max_replicas=65)),
    ("min_replicas", ModelPolicy(min_replicas=3, max_replicas=2)),
    ("price.per_device_second", ModelPolicy(price=Price(per_device_second=-1))),
    ("price.per_million_prompt_tokens", ModelPolicy(price=Price(per_million_prompt_tokens=NAN))),
]
BAD_MODELS = [
    "",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "a/b",
    "pocket\x00",
    "pocket@0",
    "pocket@-1",
    "pocket:",
    "x" * 5000,
    "no-such-model",
    "pocket@99",
    "pocket:no-such-alias",
    "pocket; rm -rf /",
]


def request(**fields: Any) -> GenerateRequest:
    given: dict[str, Any] = {"model": "pocket", "prompt": "Hi", "max_tokens": 2, **fields}
    return GenerateRequest(**given)


class Case(NamedTuple):
    """A call that must fail; `field` is to be blamed where the bytes are a message."""

    method: str
    field: str
    wire: bytes


def typed_cases() -> Iterator[Case]:
    """Messages that parse but are illegal, for every kind of method."""
    for field, message in bad_generations():
        yield Case(GENERATE, field, message.SerializeToString())
        whole = CompleteRequest(generation=message)
        yield Case(COMPLETE, field, whole.SerializeToString())
    messages = (*bad_counts_and_models(), *bad_profiles(), *bad_shadows(), *bad_rollouts())
    for method, field, message in messages:
        yield Case(method, field, message.SerializeToString())


def bad_generations() -> Iterator[tuple[str, GenerateRequest]]:
    for field, sampling in BAD_SAMPLING:
        yield field, request(sampling=sampling)
    for model in BAD_MODELS:
        yield "model", request(model=model)
    yield "prompt", request(prompt="")
    yield "input", GenerateRequest(model="pocket")
    yield "prompt", request(prompt="word " * 200_000)
    yield "max_tokens", request(max_tokens=0)
    yield "max_tokens", request(max_tokens=999_999)
    yield "max_tokens", request(max_tokens=2**32 - 1)
    yield "stop", request(stop=[""])
    yield "stop", request(stop=["x"] * 1000)
    yield "stop_token_ids", request(stop_token_ids=[2**32 - 1])
    yield "json_schema", request(json_schema="{")
    yield "json_schema", request(json_schema='{"not": {}}')
    yield "regex", request(regex="(")
    yield "grammar", request(grammar="start: missing")
    yield "choice", request(choice={"texts": []})
    yield "logprobs", request(logprobs={"top": 21})
    yield "tools", request(tools=[{"name": "f"}])
    yield "tool_choice", request(tool_choice={"mode": "TOOL_MODE_REQUIRED"})
    yield "reasoning", request(reasoning={"enabled": True})
    yield "labels", request(labels={"A b": "c"})
    yield "priority", request(priority=101)
    yield "session_id", request(session_id="s s")
    yield "adapter", request(adapter="x")
    yield "n", request(n=33)
    yield "request_id", request(request_id="a b")
    yield "tokens", token_request([2**31])
    yield "tokens", token_request([])
    yield "chat", chat_request(ChatInput())
    yield "chat", chat_request(ChatInput(messages=[ChatMessage(content="x")]))


BAD_SETTINGS: list[tuple[str, profile_pb2.EngineProfile]] = [
    ("settings.dtype", profile_pb2.EngineProfile(dtype="int4")),
    ("settings.context_tokens", profile_pb2.EngineProfile(context_tokens=0)),
    ("settings.context_tokens", profile_pb2.EngineProfile(context_tokens=2**32 - 1)),
    ("settings.kv_cache_bytes", profile_pb2.EngineProfile(kv_cache_bytes=1)),
    ("settings.prefix_cache_bytes", profile_pb2.EngineProfile(prefix_cache_bytes=2**64 - 1)),
    ("settings.max_running", profile_pb2.EngineProfile(max_running=0)),
    ("settings.max_waiting", profile_pb2.EngineProfile(max_waiting=100_001)),
    ("settings.prefill_tokens_per_step", profile_pb2.EngineProfile(prefill_tokens_per_step=0)),
    ("settings.forward", profile_pb2.EngineProfile(forward="--model-dir=/etc")),
    ("settings.tool_format", profile_pb2.EngineProfile(tool_format="../x")),
    ("settings.reasoning_format", profile_pb2.EngineProfile(reasoning_format="A b")),
    ("settings.chat_template", profile_pb2.EngineProfile(chat_template="")),
    ("settings.chat_template", profile_pb2.EngineProfile(chat_template="x" * 262_145)),
    ("settings.chat_template", profile_pb2.EngineProfile(chat_template="{% if x %}")),
    ("settings.chat_template", profile_pb2.EngineProfile(chat_template="{{" + "(" * 100_000)),
    ("settings.speculative", profile_pb2.EngineProfile(speculative="draft")),
    ("settings.adapters", profile_pb2.EngineProfile(adapters=["x"])),
]
BAD_PROFILES = ["", "../../etc/passwd", "a/b", "small@0", "small@-1", "@1", "x" * 5000, "a\x00b"]


def bad_profiles() -> Iterator[tuple[str, str, Message]]:
    for field, settings in BAD_SETTINGS:
        request = profile_pb2.SetProfileRequest(name="hostile", settings=settings)
        yield f"{PROFILES}/SetProfile", field, request
    for name in (*BAD_PROFILES, "small@1", "default"):
        request = profile_pb2.SetProfileRequest(name=name, settings=profile_pb2.EngineProfile())
        yield f"{PROFILES}/SetProfile", "name", request
        yield f"{PROFILES}/DeleteProfile", "name", profile_pb2.DeleteProfileRequest(name=name)
    yield f"{PROFILES}/SetProfile", "settings", profile_pb2.SetProfileRequest(name="hostile")
    for profile in (*BAD_PROFILES, "no-such-profile", "no-such-profile@3"):
        yield f"{PROFILES}/GetProfile", "profile", profile_pb2.GetProfileRequest(profile=profile)
        if profile:  # without one, a load is legal
            loading = model_pb2.LoadModelRequest(model="pocket", profile=profile)
            yield f"{MODELS}/LoadModel", "profile", loading
    yield f"{PROFILES}/ListProfiles", "page_size", profile_pb2.ListProfilesRequest(page_size=-1)
    yield f"{PROFILES}/ListProfiles", "page_token", profile_pb2.ListProfilesRequest(page_token="x")


def bad_counts_and_models() -> Iterator[tuple[str, str, Message]]:
    for model in BAD_MODELS:
        yield COUNT_TOKENS, "model", CountTokensRequest(model=model, prompt="Hi")
        yield f"{MODELS}/GetModel", "model", model_pb2.GetModelRequest(model=model)
        yield f"{MODELS}/DeleteModel", "model", model_pb2.DeleteModelRequest(model=model)
        yield f"{MODELS}/LoadModel", "model", model_pb2.LoadModelRequest(model=model)
        yield f"{MODELS}/UnloadModel", "model", model_pb2.UnloadModelRequest(model=model)
        if model:  # empty: every model
            verify = artifact_pb2.VerifyArtifactsRequest(model=model)
            yield f"{ARTIFACTS}/VerifyArtifacts", "model", verify
    yield COUNT_TOKENS, "input", CountTokensRequest(model="pocket")
    yield COUNT_TOKENS, "chat", CountTokensRequest(model="pocket", chat=ChatInput())
    yield from bad_experiments()
    yield f"{MODELS}/LoadModel", "replicas", model_pb2.LoadModelRequest(model="pocket", replicas=65)
    yield f"{MODELS}/ListModels", "page_size", model_pb2.ListModelsRequest(page_size=-1)
    yield f"{MODELS}/ListModels", "page_token", model_pb2.ListModelsRequest(page_token="\x00")
    for size in (-1, 1001):
        listing = artifact_pb2.ListArtifactsRequest(page_size=size)
        yield f"{ARTIFACTS}/ListArtifacts", "page_size", listing
    for token in ("\x00", "x" * 300):
        listing = artifact_pb2.ListArtifactsRequest(page_token=token)
        yield f"{ARTIFACTS}/ListArtifacts", "page_token", listing
    prune = artifact_pb2.PruneArtifactsRequest(unfinished_after_s=2**32 - 1)
    yield f"{ARTIFACTS}/PruneArtifacts", "unfinished_after_s", prune
    for repo_id in ("", "pocket", "../../etc", "a/b/c", "a/b?x"):
        yield f"{MODELS}/PullModel", "repo_id", model_pb2.PullModelRequest(repo_id=repo_id)
    for file in ("x.bin", "../x.gguf", "a/x.gguf", ".gguf"):
        yield f"{MODELS}/PullModel", "file", model_pb2.PullModelRequest(repo_id="a/b", file=file)
    yield f"{MODELS}/PullModel", "dtype", model_pb2.PullModelRequest(repo_id="a/b", dtype="int4")
    for file in ("", "relative.gguf", "/no/such.gguf", "/etc", "/dev/zero", "x" * 5000, "/\x00"):
        importing = model_pb2.ImportModelRequest(name="hostile", file=file)
        yield f"{MODELS}/ImportModel", "file", importing
    for directory in ("", "relative", "/no/such/directory", "/etc", "x" * 5000, "/\x00"):
        register = model_pb2.RegisterModelRequest(name="hostile", directory=directory)
        yield f"{MODELS}/RegisterModel", "directory", register
    for field, policy in BAD_POLICIES:
        setting = model_pb2.SetModelPolicyRequest(name="pocket", policy=policy)
        yield f"{MODELS}/SetModelPolicy", f"policy.{field}", setting
    yield f"{MODELS}/SetModelPolicy", "policy", model_pb2.SetModelPolicyRequest(name="pocket")
    unnamed = model_pb2.SetModelPolicyRequest(policy=ModelPolicy(pinned=True))
    yield f"{MODELS}/SetModelPolicy", "name", unnamed
    yield from bad_ensembles()


def bad_ensembles() -> Iterator[tuple[str, str, Message]]:
    def setting(name: str = "hostile", **recipe: Any) -> ensemble_pb2.SetEnsembleRequest:
        made = ensemble_pb2.EnsembleRecipe(**recipe)
        return ensemble_pb2.SetEnsembleRequest(name=name, recipe=made)

    method, both = f"{ENSEMBLES}/SetEnsemble", ["pocket", "pocket"]
    for name in ("", "../../etc/passwd", "a@1", "a:b", "a\x00", "x" * 5000):
        yield method, "name", setting(name, fallback={"models": ["pocket"]})
    for model in BAD_MODELS:
        yield method, "recipe.fallback.models", setting(fallback={"models": [model]})
        yield method, "recipe.best_of.judge", setting(best_of={"models": both, "judge": model})
    yield method, "recipe", ensemble_pb2.SetEnsembleRequest(name="hostile")
    yield method, "recipe.recipe", setting()
    yield method, "recipe.fallback.models", setting(fallback={"models": ["pocket"] * 9})
    yield method, "recipe.cascade.models", setting(cascade={"models": ["pocket"]})
    for least in (NAN, INFINITY, 0.1, -101):
        cascade = {"models": both, "min_mean_logprob": least}
        yield method, "recipe.cascade.min_mean_logprob", setting(cascade=cascade)
    for schema in ("{", "1", '{"type": 1}', '{"$ref": "http://127.0.0.1/"}', "[" * 200_000):
        cascade = {"models": both, "json_schema": schema}
        yield method, "recipe.cascade.json_schema", setting(cascade=cascade)
    for samples in (0, 17, 2**32 - 1):
        yield method, "recipe.vote.samples", setting(vote={"models": both, "samples": samples})
    yield method, "recipe.vote.samples", setting(vote={"models": ["pocket"]})
    for pattern in ("(", "(?=a)", "a{100000}", "((a{100}){100}){100}", "x" * 1025):
        vote = {"models": both, "answer_pattern": pattern}
        yield method, "recipe.vote.answer_pattern", setting(vote=vote)
    yield f"{ENSEMBLES}/GetEnsemble", "name", ensemble_pb2.GetEnsembleRequest(name="no-such")
    yield f"{ENSEMBLES}/DeleteEnsemble", "name", ensemble_pb2.DeleteEnsembleRequest(name="pocket")
    listing = ensemble_pb2.ListEnsemblesRequest(page_token="\x00")
    yield f"{ENSEMBLES}/ListEnsembles", "page_token", listing


def bad_shadows() -> Iterator[tuple[str, str, Message]]:
    for name in BAD_MODELS:
        start = shadow_pb2.StartShadowRequest(name=name, to_version=1)
        yield f"{SHADOWS}/StartShadow", "name", start
    for field, values in {
        "to_version": (0, 99, 2**32 - 1),
        "from_version": (1, 99),
        "percent": (0, -1, 100.5, NAN, INFINITY),
        "shadow_id": ("a b", "/", "x" * 65),
    }.items():
        for value in values:
            start = shadow_pb2.StartShadowRequest(name="pocket", to_version=1)
            setattr(start, field, value)
            yield f"{SHADOWS}/StartShadow", field, start
    for shadow_id in ("", "a b", "../x", "x" * 65):
        stop = shadow_pb2.StopShadowRequest(shadow_id=shadow_id)
        report = shadow_pb2.GetShadowReportRequest(shadow_id=shadow_id)
        yield f"{SHADOWS}/StopShadow", "shadow_id", stop
        yield f"{SHADOWS}/GetShadowReport", "shadow_id", report
    too_many = shadow_pb2.GetShadowReportRequest(shadow_id="s", pairs=1001)
    yield f"{SHADOWS}/GetShadowReport", "pairs", too_many
    yield f"{SHADOWS}/ListShadows", "page_size", shadow_pb2.ListShadowsRequest(page_size=1001)
    yield f"{SHADOWS}/ListShadows", "name", shadow_pb2.ListShadowsRequest(name="a b")
    for token in ("\x00", "x", "-1", "9" * 20):
        page = shadow_pb2.ListShadowsRequest(page_token=token)
        yield f"{SHADOWS}/ListShadows", "page_token", page


def bad_experiments() -> Iterator[tuple[str, str, Message]]:
    pb = experiment_pb2
    arms = [SplitArm(arm=name, version=1, weight=50) for name in ("a", "b")]

    def start(**fields: Any) -> experiment_pb2.StartExperimentRequest:
        given: dict[str, Any] = {"name": "pocket", "arms": arms, **fields}
        return pb.StartExperimentRequest(**given)

    cases = [
        ("name", start(name="../x")),
        ("name", start(name="no-such-model")),
        ("alias", start(alias="no-such-alias")),
        ("alias", start(alias="\x00")),
        ("arms", start(arms=[])),
        ("arms", start(arms=arms * 6)),
        ("arms", start(arms=[arms[0], SplitArm(arm="b", version=1, weight=49)])),
        ("arms[1].arm", start(arms=[arms[0], arms[0]])),
        ("arms[0].arm", start(arms=[SplitArm(version=1, weight=50), arms[1]])),
        ("arms[0].version", start(arms=[SplitArm(arm="a", weight=50), arms[1]])),
        ("arms[1].version", start(arms=[arms[0], SplitArm(arm="b", version=99, weight=50)])),
        ("arms[0].weight", start(arms=[SplitArm(arm="a", version=1, weight=2**31), arms[1]])),
        ("subject", start(subject=4)),
        ("subject", start(subject=99)),
        ("description", start(description="x" * 1001)),
        ("experiment_id", start(experiment_id="a/b")),
    ]
    yield from ((f"{EXPERIMENTS}/StartExperiment", *case) for case in cases)
    for method, message in (
        ("GetExperiment", pb.GetExperimentRequest),
        ("StopExperiment", pb.StopExperimentRequest),
        ("AnalyzeExperiment", pb.AnalyzeExperimentRequest),
    ):
        for bad in ("", "a/b", "\x00", "x" * 65, "no-such-experiment"):
            yield f"{EXPERIMENTS}/{method}", "experiment_id", message(experiment_id=bad)
    for alpha in (0, 0.6, NAN, INFINITY):
        analyze = pb.AnalyzeExperimentRequest(experiment_id="e", alpha=alpha)
        yield f"{EXPERIMENTS}/AnalyzeExperiment", "alpha", analyze
    yield f"{EXPERIMENTS}/ListExperiments", "page_token", pb.ListExperimentsRequest(page_token="x")
    for score in (NAN, INFINITY, 1e7):
        report = pb.ReportOutcomeRequest(request_id="r", score=score)
        yield f"{EXPERIMENTS}/ReportOutcome", "score", report
    for request_id in ("", "a b", "x" * 129, "no-such-request"):
        report = pb.ReportOutcomeRequest(request_id=request_id, score=1)
        yield f"{EXPERIMENTS}/ReportOutcome", "request_id", report


def bad_rollouts() -> Iterator[tuple[str, str, Message]]:
    start = f"{ROLLOUTS}/StartRollout"
    error_rate = rollout_pb2.GUARD_METRIC_ERROR_RATE
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("name", {"name": ""}),
        ("name", {"name": "../x"}),
        ("name", {"name": "no-such-model"}),
        ("to_version", {"to_version": 0}),
        ("to_version", {"to_version": 999}),
        ("alias", {"alias": "a b"}),
        ("steps", {"steps": [0]}),
        ("steps", {"steps": [101]}),
        ("steps", {"steps": [10, 5]}),
        ("steps", {"steps": [5, 5]}),
        ("steps", {"steps": range(1, 22)}),
        ("hold_s", {"hold_s": 0}),
        ("hold_s", {"hold_s": 604_801}),
        ("min_requests", {"min_requests": 1_000_001}),
        ("rollout_id", {"rollout_id": "x" * 65}),
        ("guards", {"guards": [rollout_pb2.Guard()]}),
        ("guards", {"guards": [rollout_pb2.Guard(metric=cast("Any", 99))]}),
        ("guards", {"guards": [rollout_pb2.Guard(metric=error_rate, bound=-1)]}),
        ("guards", {"guards": [rollout_pb2.Guard(metric=error_rate, bound=NAN)]}),
        ("guards", {"guards": [rollout_pb2.Guard(metric=error_rate)] * 17}),
    ]
    for field, fields in wrong:
        given = {"name": "pocket", "to_version": 2, **fields}
        yield start, field, rollout_pb2.StartRolloutRequest(**given)
    listing = f"{ROLLOUTS}/ListRollouts"
    yield listing, "page_size", rollout_pb2.ListRolloutsRequest(page_size=1001)
    yield listing, "page_token", rollout_pb2.ListRolloutsRequest(page_token="YmVmb3JlOng6eQ==")
    yield listing, "name", rollout_pb2.ListRolloutsRequest(name="a b")
    for rollout_id in ("", "a b", "x" * 65):
        by_id = {"rollout_id": rollout_id}
        yield f"{ROLLOUTS}/GetRollout", "rollout_id", rollout_pb2.GetRolloutRequest(**by_id)
        yield f"{ROLLOUTS}/PauseRollout", "rollout_id", rollout_pb2.PauseRolloutRequest(**by_id)
        yield f"{ROLLOUTS}/ResumeRollout", "rollout_id", rollout_pb2.ResumeRolloutRequest(**by_id)
        yield f"{ROLLOUTS}/AbortRollout", "rollout_id", rollout_pb2.AbortRolloutRequest(**by_id)
        yield f"{ROLLOUTS}/PromoteRollout", "rollout_id", rollout_pb2.PromoteRolloutRequest(**by_id)


def token_request(ids: list[int]) -> GenerateRequest:
    return GenerateRequest(model="pocket", tokens=TokenInput(token_ids=ids))


def chat_request(chat: ChatInput) -> GenerateRequest:
    return GenerateRequest(model="pocket", chat=chat)


def raw_cases(generator: random.Random) -> Iterator[bytes]:
    """Wire bytes that are no message, or not what the field's type says."""
    good = request().SerializeToString()
    while True:
        # Invalid UTF-8 in `model`; a number where text belongs; text where a number belongs.
        yield b"\x0a\x04" + bytes(generator.choices(range(0x80, 0x100), k=4)) + good[8:]
        yield b"\x08" + bytes([generator.randrange(128)]) + b"\x12\x02\xff\xfe"
        yield b"\x2a" + struct.pack("B", 2) + b"hi" + b"\x12\x01\xc3"
        # A cut message, with its last field's length beyond the end; random bytes.
        yield good + b"\x12" + bytes([generator.randrange(1, 128)])
        yield b"\x0b" + generator.randbytes(generator.randrange(1, 200))


def cases() -> list[Case]:
    generator = random.Random(7)
    typed, raw = list(typed_cases()), raw_cases(generator)
    half = COUNT // 2
    mixed = [typed[i % len(typed)] for i in range(half)]
    mixed += [Case(RAW_METHODS[i % len(RAW_METHODS)], "", next(raw)) for i in range(half)]
    generator.shuffle(mixed)
    return mixed


async def outcome(channel: grpc.aio.Channel, case: Case) -> grpc.aio.AioRpcError:
    """The status that a case gets."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(channel, case)
    return caught.value


async def answer(channel: grpc.aio.Channel, case: Case) -> None:
    if case.method in STREAMING:
        async for _ in channel.unary_stream(case.method)(case.wire, timeout=30):
            pass
    else:
        await channel.unary_unary(case.method)(case.wire, timeout=30)


def reason_and_fields(error: grpc.aio.AioRpcError) -> tuple[str, list[str]]:
    """Why, and which fields are to blame; from a status with one ErrorInfo and no RetryInfo."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None, error
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    infos = [detail for detail in status.details if detail.Unpack(info)]
    assert len(infos) == 1, error
    assert not any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    for detail in status.details:
        detail.Unpack(bad)
    return info.reason, [violation.field for violation in bad.field_violations]


def check(case: Case, error: grpc.aio.AioRpcError) -> None:
    reason, fields = reason_and_fields(error)
    assert HOPELESS.get(reason) is error.code(), (case, error)
    if case.field:
        # Of the generation that a CompleteRequest holds, or of the request itself.
        plain = [name.removeprefix("generation.") for name in fields]
        assert any(name.startswith(case.field) for name in plain), (case, fields, error)
    if case.field in UNSUPPORTED:
        assert reason == "FEATURE_NOT_SUPPORTED", (case, error)


def test_there_are_a_thousand_cases_of_every_kind() -> None:
    assert len(cases()) == COUNT
    assert set(cases()) >= set(typed_cases())
    assert {case.method for case in cases() if not case.field} == set(RAW_METHODS)


async def test_every_request_gets_a_clear_status_and_nothing_dies(mesh: RunningMesh) -> None:
    pids = {row["instance_id"]: row["pid"] for row in mesh.status()["instances"]}
    async with MeshClient(mesh.address) as client:
        models = await client.list_models()
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        for case in cases():
            check(case, await outcome(channel, case))
    assert {row["instance_id"]: row["pid"] for row in mesh.status()["instances"]} == pids
    async with MeshClient(mesh.address) as client:
        assert await client.list_models() == models
        assert (await client.complete("pocket", prompt="Hi", max_tokens=2)).token_ids
