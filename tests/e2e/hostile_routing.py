"""Illegal messages for the services that decide which version answers, and with what settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from google.protobuf.message import Message

from mlxmesh.model.v1 import (
    ensemble_pb2,
    experiment_pb2,
    model_pb2,
    profile_pb2,
    rollout_pb2,
    shadow_pb2,
)
from mlxmesh.model.v1.policy_pb2 import ModelPolicy, Price
from mlxmesh.model.v1.split_pb2 import SplitArm

MODELS = "/mlxmesh.model.v1.ModelService"
ROLLOUTS = "/mlxmesh.model.v1.RolloutService"
EXPERIMENTS = "/mlxmesh.model.v1.ExperimentService"
STREAMING = {f"{EXPERIMENTS}/WatchExperiment", f"{ROLLOUTS}/WatchRollout"}
ENSEMBLES = "/mlxmesh.model.v1.EnsembleService"
PROFILES = "/mlxmesh.model.v1.ProfileService"
SHADOWS = "/mlxmesh.model.v1.ShadowService"
NAN, INFINITY = float("nan"), float("inf")

Cases = Iterator[tuple[str, str, Message]]
"""A method, the field that is to be blamed, and the message."""

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


def bad_routing() -> Cases:
    """All of them."""
    yield from bad_policies()
    yield from bad_profiles()
    yield from bad_rollouts()
    yield from bad_experiments()
    yield from bad_shadows()
    yield from bad_ensembles()


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
    ("settings.speculative", profile_pb2.EngineProfile(speculative="fast")),
    ("settings.max_adapters", profile_pb2.EngineProfile(max_adapters=65)),
    ("settings.adapter_bytes", profile_pb2.EngineProfile(adapter_bytes=1)),
]
BAD_PROFILES = ["", "../../etc/passwd", "a/b", "small@0", "small@-1", "@1", "x" * 5000, "a\x00b"]


def bad_profiles() -> Cases:
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


def bad_policies() -> Cases:
    for field, policy in BAD_POLICIES:
        setting = model_pb2.SetModelPolicyRequest(name="pocket", policy=policy)
        yield f"{MODELS}/SetModelPolicy", f"policy.{field}", setting
    yield f"{MODELS}/SetModelPolicy", "policy", model_pb2.SetModelPolicyRequest(name="pocket")
    unnamed = model_pb2.SetModelPolicyRequest(policy=ModelPolicy(pinned=True))
    yield f"{MODELS}/SetModelPolicy", "name", unnamed


def bad_ensembles() -> Cases:
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


def bad_shadows() -> Cases:
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


def bad_experiments() -> Cases:
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
        watch = pb.WatchExperimentRequest(analyze=analyze)
        yield f"{EXPERIMENTS}/WatchExperiment", "analyze.alpha", watch
    yield f"{EXPERIMENTS}/ListExperiments", "page_token", pb.ListExperimentsRequest(page_token="x")
    for score in (NAN, INFINITY, 1e7):
        report = pb.ReportOutcomeRequest(request_id="r", score=score)
        yield f"{EXPERIMENTS}/ReportOutcome", "score", report
    for request_id in ("", "a b", "x" * 129, "no-such-request"):
        report = pb.ReportOutcomeRequest(request_id=request_id, score=1)
        yield f"{EXPERIMENTS}/ReportOutcome", "request_id", report


def bad_rollouts() -> Cases:
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
        yield f"{ROLLOUTS}/WatchRollout", "rollout_id", rollout_pb2.WatchRolloutRequest(**by_id)
        yield f"{ROLLOUTS}/PauseRollout", "rollout_id", rollout_pb2.PauseRolloutRequest(**by_id)
        yield f"{ROLLOUTS}/ResumeRollout", "rollout_id", rollout_pb2.ResumeRolloutRequest(**by_id)
        yield f"{ROLLOUTS}/AbortRollout", "rollout_id", rollout_pb2.AbortRolloutRequest(**by_id)
        yield f"{ROLLOUTS}/PromoteRollout", "rollout_id", rollout_pb2.PromoteRolloutRequest(**by_id)
