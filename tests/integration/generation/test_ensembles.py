"""Ensembles over real generations, with scripted engines: streams, failures at every step,
cancelling, deadlines, losses and resumption.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1.engine_pb2 import Logprobs as EngineLogprobs
from mlxmesh.engine.v1.engine_pb2 import Submit
from mlxmesh.generation.v1.generation_pb2 import (
    FINISH_REASON_CANCELLED,
    FINISH_REASON_STOP,
    ROLE_USER,
    AttachGenerationRequest,
    CancelGenerationRequest,
    ChatInput,
    ChatMessage,
    CompleteRequest,
    CompleteResponse,
    CountTokensRequest,
    EnsembleStep,
    Finished,
    GenerateRequest,
    GenerateResponse,
    GetGenerationRequest,
    GetOutputFormatRequest,
    Logprobs,
    TokenInput,
    Tool,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1.ensemble_pb2 import (
    BestOfRecipe,
    CascadeRecipe,
    EnsembleRecipe,
    FallbackRecipe,
    VoteRecipe,
)
from mlxmesh.model.v1.history_pb2 import OUTCOME_STATUS_FAILED
from mlxmesh.model.v1.model_pb2 import VERSION_STATE_READY, Model, ModelVersion
from mlxmesh.model.v1.policy_pb2 import ModelPolicy, Price
from mlxmesh.model.v1.split_pb2 import SPLIT_SUBJECT_PRINCIPAL, Split, SplitArm
from mlxmesh_gateway.forwarding.recording import Recording
from mlxmesh_generation.convert_events import WholeOutputs, event_of
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import (
    Cancelled,
    ContextTooLong,
    DeadlineExceeded,
    EngineLost,
    FeatureNotSupported,
    GenerationExists,
    InsufficientMemory,
    InvalidArgument,
    MeshError,
    ModelNotFound,
    ModelNotLoaded,
    QueueFull,
)
from mlxmesh_shared.rpc.caller import OWNER_METADATA
from mlxmesh_shared.rpc.channels import ChannelPool
from tests.fakes import tokenizer_files
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.model_service import FakeModelService
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.waiting import until
from tests.integration.generation.harness import DIGEST, generation_service

EOS = 2
PRICE = Price(per_million_prompt_tokens=1e6, per_million_completion_tokens=10e6)


@dataclass
class Crowd:
    """Models by name, each with engines, and instances of generation that serve them."""

    registry: InMemoryRegistry
    models: FakeModelService
    tokenizer: ModelTokenizer
    directory: Path
    stack: AsyncExitStack
    stubs: list[GenerationServiceStub] = field(default_factory=list[GenerationServiceStub])
    engines: dict[str, FakeEngine] = field(default_factory=dict[str, FakeEngine])
    marks: int = 0

    @property
    def stub(self) -> GenerationServiceStub:
        return self.stubs[0]

    def model(
        self, name: str, *, loaded: bool = True, on_demand: bool = False, **changes: object
    ) -> None:
        """Adds or changes a model of the catalogue."""
        version = ModelVersion(
            version=1,
            state=VERSION_STATE_READY,
            digest=DIGEST,
            context_tokens=1024,
            vocab_size=500,
            desired_replicas=int(loaded),
        )
        fields: dict[str, object] = {"versions": [version], "default_version": 1, **changes}
        policy = ModelPolicy(price=PRICE, load_on_demand=on_demand)
        model = Model(name=name, policy=policy, **fields)  # pyright: ignore[reportArgumentType]
        self.models.put(model, self.directory)

    async def ensemble(self, recipe: EnsembleRecipe, name: str = "crowd") -> None:
        """Adds or changes an ensemble, which every instance knows afterwards."""
        self.models.put(Model(name=name, ensemble=recipe))
        self.marks += 1
        mark = f"mark-{self.marks}"
        self.models.put(Model(name=mark))  # the last change
        for stub in self.stubs:
            while not await self._knows(stub, mark):
                await asyncio.sleep(0.002)

    async def _knows(self, stub: GenerationServiceStub, model: str) -> bool:
        try:
            await stub.CountTokens(CountTokensRequest(model=model, prompt="x"))
        except ModelNotFound as error:
            return "there is no model" not in error.message
        return True

    async def engine(self, model: str, *texts: str, name: str = "") -> FakeEngine:
        """Adds an engine that says a text to its end; the text depends on the seed."""
        name = name or f"engine-{model}"
        options = FakeEngineOptions(engine_id=name, model=model, eos_token_id=EOS)
        scripts = [[*self.tokenizer.encode_plain(text), EOS] for text in texts or (f"of {model}",)]
        seeds: list[int] = []

        def choose(submit: Submit, index: int, vocab_size: int) -> int:
            if submit.sampling.seed not in seeds:
                seeds.append(submit.sampling.seed)
            tokens = scripts[seeds.index(submit.sampling.seed) % len(scripts)]
            return tokens[min(index, len(tokens) - 1)]

        options.choose = choose
        engine = self.engines[name] = FakeEngine(options)
        await self.stack.enter_async_context(engine.running())
        await self.registry.register(engine.instance)
        await until(lambda: engine.streams == len(self.stubs))
        return engine

    async def lose(self, engine: FakeEngine) -> None:
        """As when an engine is killed."""
        await self.registry.deregister(engine.instance)
        engine.break_streams()

    async def collect(
        self, request: GenerateRequest, *, timeout: float | None = None
    ) -> list[GenerateResponse]:
        return [message async for message in self.stub.Generate(request, timeout=timeout)]


@pytest.fixture
async def crowd(
    tmp_path: Path, tokenizer_dir: Path, tokenizer: ModelTokenizer
) -> AsyncIterator[Crowd]:
    async with AsyncExitStack() as stack:
        registry, models = InMemoryRegistry(), FakeModelService()
        await stack.enter_async_context(models.running())
        await registry.register(models.instance)
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        crowd = Crowd(registry, models, tokenizer, tokenizer_dir, stack)
        for name in ("a", "b"):
            server = await stack.enter_async_context(generation_service(registry, tmp_path / name))
            crowd.stubs.append(GenerationServiceStub(channels.get(server.address)))
        yield crowd


def fallback(*models: str, timeout_ms: int = 0) -> EnsembleRecipe:
    recipe = FallbackRecipe(models=models, first_token_timeout_ms=timeout_ms)
    return EnsembleRecipe(fallback=recipe)


def cascade(*models: str, least: float | None = None, schema: str = "") -> EnsembleRecipe:
    recipe = CascadeRecipe(models=models, min_mean_logprob=least, json_schema=schema)
    return EnsembleRecipe(cascade=recipe)


def vote(*models: str, samples: int = 1, pattern: str = "") -> EnsembleRecipe:
    recipe = VoteRecipe(models=models, samples=samples, answer_pattern=pattern)
    return EnsembleRecipe(vote=recipe)


def best_of(*models: str, judge: str, samples: int = 1) -> EnsembleRecipe:
    return EnsembleRecipe(best_of=BestOfRecipe(models=models, judge=judge, samples=samples))


def asked(**fields: object) -> GenerateRequest:
    defaults: dict[str, object] = {
        "model": "crowd",
        "prompt": "the quick brown fox",
        "max_tokens": 200,
        "sampling": Sampling(seed=3, temperature=1),
    }
    return GenerateRequest(**{**defaults, **fields})  # pyright: ignore[reportArgumentType]


def text_of(messages: Sequence[GenerateResponse]) -> str:
    return "".join(message.delta.text for message in messages)


def end_of(messages: Sequence[GenerateResponse]) -> Finished:
    numbers = [message.sequence for message in messages]
    assert numbers == list(range(1, len(messages) + 1))
    assert [message.HasField("started") for message in messages].count(True) == 1
    assert messages[0].started.ensemble == "crowd"
    assert messages[-1].finished.HasField("total_usage")
    end = messages[-1].finished
    [chosen] = [step for step in end.steps if step.chosen]
    assert chosen.model == messages[0].started.model
    assert chosen.model_version == messages[0].started.model_version
    assert chosen.usage == end.usage
    assert len(messages[0].started.steps) == len(end.steps)
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        total = sum(getattr(step.usage, name) for step in end.steps)
        assert getattr(end.total_usage, name) == total
    assert math.isclose(end.cost, sum(step.cost for step in end.steps))
    return end


def path(end: Finished) -> list[tuple[str, str]]:
    return [(step.model, step.reason) for step in end.steps]


LONG = "the quick brown fox jumps over the lazy dog, again and again. " * 3


# Fallback.


async def test_a_model_that_is_not_loaded_is_passed_over(crowd: Crowd) -> None:
    crowd.model("big", loaded=False)
    crowd.model("small")
    await crowd.ensemble(fallback("big", "small"))
    await crowd.engine("small", "hello there")
    messages = await crowd.collect(asked())
    end = end_of(messages)
    assert text_of(messages) == "hello there"
    assert path(end) == [("big", "MODEL_NOT_LOADED"), ("small", "")]
    assert end.finish_reason == FINISH_REASON_STOP
    prompt = len(crowd.tokenizer.encode_prompt("the quick brown fox"))
    assert end.cost == prompt * 1 + end.usage.completion_tokens * 10


async def test_an_engine_that_is_full_is_passed_over(crowd: Crowd) -> None:
    for name in ("big", "small"):
        crowd.model(name)
        await crowd.engine(name)
    await crowd.ensemble(fallback("big", "small"))
    crowd.engines["engine-big"].options.max_running = 0
    crowd.engines["engine-big"].options.max_waiting = 0
    end = end_of(await crowd.collect(asked()))
    assert path(end) == [("big", "QUEUE_FULL"), ("small", "")]


async def test_an_engine_that_dies_before_its_first_token_is_passed_over(crowd: Crowd) -> None:
    for name in ("big", "small"):
        crowd.model(name)
        await crowd.engine(name)
    await crowd.ensemble(fallback("big", "small"))
    big = crowd.engines["engine-big"]
    big.may_step.clear()
    reading = asyncio.create_task(crowd.collect(asked()))
    await until(lambda: big.sequences == 1)
    await crowd.lose(big)
    end = end_of(await reading)
    assert path(end) == [("big", "ENGINE_LOST"), ("small", "")]


async def test_a_slow_first_token_is_not_waited_for(crowd: Crowd) -> None:
    for name in ("big", "small"):
        crowd.model(name)
        await crowd.engine(name)
    await crowd.ensemble(fallback("big", "small", timeout_ms=50))
    big = crowd.engines["engine-big"]
    big.may_step.clear()
    end = end_of(await crowd.collect(asked()))
    assert path(end) == [("big", "FIRST_TOKEN_TIMEOUT"), ("small", "")]
    await until(lambda: big.sequences == 0)


async def test_the_answer_streams_as_it_comes(crowd: Crowd) -> None:
    crowd.model("big")
    big = await crowd.engine("big", LONG)
    await crowd.ensemble(fallback("big"))
    big.options.step_s = 0.005
    stream = aiter(crowd.stub.Generate(asked()))
    messages = [await anext(stream), await anext(stream)]
    assert messages[1].HasField("delta")
    assert big.sequences == 1  # it still runs
    messages += [message async for message in stream]
    end_of(messages)
    assert text_of(messages) == LONG


async def test_several_outputs_of_a_fallback(crowd: Crowd) -> None:
    crowd.model("big", loaded=False)
    crowd.model("small")
    await crowd.engine("small", "one", "two", "three")
    await crowd.ensemble(fallback("big", "small"))
    messages = await crowd.collect(asked(n=3))
    ends = [message.finished for message in messages if message.HasField("finished")]
    assert [end.HasField("total_usage") for end in ends] == [False, False, True]
    assert path(ends[-1]) == [("big", "MODEL_NOT_LOADED"), ("small", "")]
    completion = sum(end.usage.completion_tokens for end in ends)
    assert ends[-1].total_usage.completion_tokens == completion
    assert {message.delta.index for message in messages} == {0, 1, 2}


async def test_the_arm_is_that_of_the_members_split(crowd: Crowd) -> None:
    arms = [SplitArm(arm="canary", version=1, weight=100)]
    split = Split(rollout_id="r", subject=SPLIT_SUBJECT_PRINCIPAL, salt="s", arms=arms)
    crowd.model("big", splits={"default": split})
    await crowd.engine("big")
    await crowd.ensemble(fallback("big"))
    metadata = ((OWNER_METADATA, "ada"),)
    call = crowd.stub.Generate(asked(model="big"), metadata=metadata)
    alone = [message async for message in call]
    call = crowd.stub.Generate(asked(), metadata=metadata)
    within = [message async for message in call]
    assert within[0].started.arm == alone[0].started.arm == "canary"
    assert within[0].started.rollout_id == alone[0].started.rollout_id


# Loading on demand.

ON_DEMAND: dict[str, EnsembleRecipe] = {
    "fallback": fallback("big", "small"),
    "cascade": cascade("big", "small", least=-5),
    "vote": vote("big", samples=3),
    "best_of": best_of("big", "big", judge="judge"),
}


@pytest.mark.parametrize("name", ON_DEMAND)
async def test_models_are_loaded_on_demand(crowd: Crowd, name: str) -> None:
    crowd.model("small")
    await crowd.engine("small")
    for model in ("big", "judge"):
        crowd.model(model, loaded=False, on_demand=True)
    await crowd.ensemble(ON_DEMAND[name])
    reading = asyncio.create_task(crowd.collect(asked()))
    needed = ["big", "judge"] if name == "best_of" else ["big"]
    for model in needed:
        await until(lambda model=model: (model, 1) in crowd.models.load_requests)
        await crowd.engine(model)
    messages = await reading
    assert messages[0].started.model == "big"
    assert text_of(messages) == "of big"
    end_of(messages)
    assert {model for model, _ in crowd.models.load_requests} == set(needed)


async def test_a_load_that_fails_leaves_it_to_the_next_model(crowd: Crowd) -> None:
    crowd.model("big", loaded=False, on_demand=True)
    crowd.model("small")
    await crowd.engine("small")
    await crowd.ensemble(fallback("big", "small"))
    crowd.models.fail_load = InsufficientMemory("needs 4 GiB, 3 GiB are free")
    end = end_of(await crowd.collect(asked()))
    assert path(end) == [("big", "INSUFFICIENT_MEMORY"), ("small", "")]
    assert crowd.models.load_requests == [("big", 1)]


async def test_the_time_for_a_first_token_bounds_a_load(crowd: Crowd) -> None:
    crowd.model("big", loaded=False, on_demand=True)
    crowd.model("small")
    await crowd.engine("small")
    await crowd.ensemble(fallback("big", "small", timeout_ms=50))
    end = end_of(await crowd.collect(asked()))
    assert path(end) == [("big", "FIRST_TOKEN_TIMEOUT"), ("small", "")]


@pytest.mark.parametrize("name", ["fallback", "vote"])
async def test_a_cancel_ends_the_wait_for_a_load(crowd: Crowd, name: str) -> None:
    for model in ("big", "small"):
        crowd.model(model, loaded=False, on_demand=True)
    await crowd.ensemble(ON_DEMAND[name])
    reading = asyncio.create_task(crowd.collect(asked(request_id="mine")))
    await until(lambda: bool(crowd.models.load_requests))
    await crowd.stub.CancelGeneration(CancelGenerationRequest(request_id="mine"))
    end = end_of(await reading)
    assert end.finish_reason == FINISH_REASON_CANCELLED
    assert end.total_usage.completion_tokens == 0


# Outcomes.

RECIPES: dict[str, EnsembleRecipe] = {
    "fallback": fallback("off", "small"),
    "first": fallback("small", "big"),
    "cascade": cascade("small", "big", least=-0.1),
    "confident": cascade("small", "big", least=-5),
    "vote": vote("small", "big", "small"),
    "best_of": best_of("small", "big", judge="small"),
}


@pytest.mark.parametrize("name", ["fallback", "confident", "vote", "best_of"])
async def test_the_chosen_members_outcome_has_the_callers_request_id(
    crowd: Crowd, name: str
) -> None:
    for model in ("small", "big"):
        crowd.model(model)
        await crowd.engine(model)
    crowd.model("off", loaded=False)
    await crowd.ensemble(RECIPES[name])
    end = end_of(await crowd.collect(asked(request_id="mine")))
    members = [step for step in end.steps if step.model_version]
    await until(lambda: len(crowd.models.history.outcomes) >= len(members))
    outcomes = crowd.models.history.outcomes
    assert len(outcomes) == len(members)
    [chosen] = [outcome for outcome in outcomes if outcome.request_id == "mine"]
    [step] = [step for step in end.steps if step.chosen]
    assert (chosen.model, chosen.completion_tokens) == (step.model, step.usage.completion_tokens)
    assert math.isclose(chosen.cost, step.cost)
    others = {outcome.request_id for outcome in outcomes} - {"mine"}
    assert len(others) == len(members) - 1
    assert all(other.startswith("mine.") for other in others)
    assert math.isclose(sum(outcome.cost for outcome in outcomes), end.cost)


async def test_a_load_that_failed_is_a_failure_of_the_version(crowd: Crowd) -> None:
    for model in ("big", "small"):
        crowd.model(model, loaded=False, on_demand=True)
    await crowd.ensemble(fallback("big", "small"))
    crowd.models.fail_load = InsufficientMemory("needs 4 GiB, 3 GiB are free")
    for request in (asked(), asked(model="big")):
        with pytest.raises(InsufficientMemory):
            await crowd.collect(request)
    history = crowd.models.history
    await until(lambda: len(history.outcomes) >= 3)
    for outcome in history.outcomes:
        assert outcome.status == OUTCOME_STATUS_FAILED
        assert outcome.error_reason == "INSUFFICIENT_MEMORY"
        assert outcome.cost == 0


# Losses and resumption.


async def test_an_engine_killed_under_the_chosen_member_costs_nothing(crowd: Crowd) -> None:
    crowd.model("big", loaded=False)
    crowd.model("small")
    first = await crowd.engine("small", LONG)
    await crowd.ensemble(fallback("big", "small"))
    undisturbed = await crowd.collect(asked())
    second = await crowd.engine("small", LONG, name="second")
    first.options.step_s = second.options.step_s = 0.005
    reading = asyncio.create_task(crowd.collect(asked()))
    await until(lambda: first.sequences + second.sequences == 1)
    lost = first if first.sequences else second
    steps = lost.steps
    await until(lambda: lost.steps > steps + 10)
    await crowd.lose(lost)
    messages = await reading
    end = end_of(messages)
    assert text_of(messages) == text_of(undisturbed) == LONG
    assert end.timings.resumptions == 1
    assert path(end) == [("big", "MODEL_NOT_LOADED"), ("small", "")]


async def test_a_chosen_member_waits_for_an_engine(crowd: Crowd) -> None:
    crowd.model("small")
    crowd.model("big", loaded=False)
    first = await crowd.engine("small", LONG)
    await crowd.ensemble(fallback("small", "big"))
    first.options.step_s = 0.005
    reading = asyncio.create_task(crowd.collect(asked()))
    await until(lambda: first.sequences == 1)
    steps = first.steps
    await until(lambda: first.steps > steps + 10)
    await crowd.lose(first)
    await crowd.engine("small", LONG, name="second")
    messages = await reading
    assert text_of(messages) == LONG
    assert end_of(messages).timings.resumptions == 1


@pytest.mark.parametrize("name", RECIPES)
async def test_another_instance_resumes_the_stream_with_its_whole_path(
    crowd: Crowd, name: str
) -> None:
    """At every message: what a gateway does when the generation instance is killed."""
    for model in ("small", "big"):
        crowd.model(model)
        await crowd.engine(model, f"{LONG} of {model}")
        crowd.engines[f"engine-{model}"].options.step_s = 0.0005
    crowd.model("off", loaded=False)
    await crowd.ensemble(RECIPES[name])
    request = asked()
    whole = await crowd.collect(request)
    expected = end_of(whole)
    for cut in {1, 2, len(whole) // 2, len(whole) - 1}:
        recording = Recording()
        for message in whole[:cut]:
            recording.add(message.SerializeToString())
        resume = recording.resume_request(request)
        assert resume.generation.model == f"{whole[0].started.model}@1"
        assert resume.generation.sampling.seed == whole[0].started.seed
        call = crowd.stubs[1].ResumeGeneration(resume)
        rest = [answer.message async for answer in call]
        messages = [*whole[:cut], *rest]
        end = end_of(messages)
        assert text_of(messages) == text_of(whole)
        assert end.total_usage.completion_tokens == expected.total_usage.completion_tokens
        assert end.total_usage.prompt_tokens == expected.total_usage.prompt_tokens
        assert math.isclose(end.cost, expected.cost)
        assert [without_time(step) for step in end.steps] == [
            without_time(step) for step in expected.steps
        ]


def without_time(step: EnsembleStep) -> EnsembleStep:
    same = EnsembleStep()
    same.CopyFrom(step)
    same.ClearField("device_ms")
    same.usage.ClearField("cached_tokens")
    return same


async def test_ids_work_as_for_any_generation(crowd: Crowd) -> None:
    crowd.model("small")
    await crowd.engine("small", "yes", "no", "yes")
    await crowd.ensemble(vote("small", samples=3))
    request = asked(request_id="mine", keep_request=True)
    messages = await crowd.collect(request)
    assert text_of(messages) == "yes"
    submits = len(crowd.engines["engine-small"].submits)
    assert submits == 3
    assert await crowd.collect(request) == messages  # nothing is generated again
    call = crowd.stub.AttachGeneration(
        AttachGenerationRequest(request_id="mine", after_sequence=1, generation=request)
    )
    attached = [answer async for answer in call]
    assert [answer.message for answer in attached] == messages[1:]
    assert attached[0].started == messages[0].started
    got = await crowd.stub.GetGeneration(GetGenerationRequest(request_id="mine"))
    assert (got.text, got.finished.steps) == ("yes", messages[-1].finished.steps)
    assert got.generation == request
    complete = await crowd.stub.Complete(CompleteRequest(generation=request))
    assert complete.finished.steps == messages[-1].finished.steps
    assert len(crowd.engines["engine-small"].submits) == submits
    with pytest.raises(GenerationExists):
        await crowd.collect(asked(request_id="mine", max_tokens=3))
    for member in ("mine.1", "mine.2"):
        with pytest.raises(MeshError):
            await crowd.stub.GetGeneration(GetGenerationRequest(request_id=member))


# Cascade.


async def test_a_cascade_escalates_and_streams_the_last(crowd: Crowd) -> None:
    for name in ("small", "big"):
        crowd.model(name)
        await crowd.engine(name, f"{LONG} {name}")
    await crowd.ensemble(cascade("small", "big", least=-0.5))  # the fake's are -ln 2
    big = crowd.engines["engine-big"]
    big.may_step.clear()
    call = crowd.stub.Generate(asked())
    stream = aiter(call)
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: big.sequences == 1)
    big.may_step.set()
    messages = [await first, *[message async for message in stream]]
    end = end_of(messages)
    assert path(end) == [("small", "LOW_CONFIDENCE"), ("big", "")]
    assert math.isclose(end.steps[0].score, -math.log(2), rel_tol=1e-5)
    assert text_of(messages) == f"{LONG} big"
    assert not any(message.delta.logprobs for message in messages)
    [submit] = crowd.engines["engine-small"].submits
    assert submit.HasField("logprobs")
    assert not big.submits[0].HasField("logprobs")


async def test_a_confident_answer_is_given_without_the_log_probabilities(crowd: Crowd) -> None:
    for name in ("small", "big"):
        crowd.model(name)
        await crowd.engine(name)
    await crowd.ensemble(cascade("small", "big", least=-1))
    messages = await crowd.collect(asked())
    assert path(end_of(messages)) == [("small", "")]
    assert not any(message.delta.logprobs for message in messages)
    messages = await crowd.collect(asked(logprobs=Logprobs(top=2, prompt=True)))
    deltas = [message.delta for message in messages if message.HasField("delta")]
    assert all(len(delta.logprobs) == len(delta.token_ids) for delta in deltas)
    assert any(message.HasField("prompt_logprobs") for message in messages)
    assert crowd.engines["engine-big"].submits == []


async def test_a_schema_that_fails_escalates(crowd: Crowd) -> None:
    for name, text in (("small", "the fox"), ("big", "[1, 2]")):
        crowd.model(name)
        await crowd.engine(name, text)
    await crowd.ensemble(cascade("small", "big", schema='{"type": "array"}'))
    messages = await crowd.collect(asked())
    assert path(end_of(messages)) == [("small", "SCHEMA_FAILED"), ("big", "")]
    assert text_of(messages) == "[1, 2]"


async def test_a_member_of_a_cascade_that_is_lost_is_left_to_the_next(crowd: Crowd) -> None:
    for name in ("small", "big"):
        crowd.model(name)
        await crowd.engine(name, f"{LONG} {name}")
    await crowd.ensemble(cascade("small", "big", least=-1))
    small = crowd.engines["engine-small"]
    reading = asyncio.create_task(crowd.collect(asked()))
    await until(lambda: small.sequences == 1)
    await crowd.lose(small)
    messages = await reading
    assert path(end_of(messages)) == [("small", "ENGINE_LOST"), ("big", "")]
    assert text_of(messages) == f"{LONG} big"


async def test_the_last_models_error_is_told(crowd: Crowd) -> None:
    crowd.model("small")
    await crowd.engine("small")
    crowd.model("big", loaded=False)
    await crowd.ensemble(cascade("small", "big", least=-0.1))
    with pytest.raises(ModelNotLoaded, match="big"):
        await crowd.collect(asked())


# Vote and best of.


async def test_a_vote_is_by_value(crowd: Crowd) -> None:
    crowd.model("small")
    await crowd.engine("small", "it is 7", "so 4", "hence 4.0")
    await crowd.ensemble(vote("small", samples=3, pattern=r"(\d[\d.]*)"))
    messages = await crowd.collect(asked())
    end = end_of(messages)
    assert text_of(messages) == "so 4"
    assert [step.score for step in end.steps] == [1, 2, 2]
    assert [step.reason for step in end.steps] == ["OUTVOTED", "", "AGREED"]


async def test_members_share_the_callers_limits(crowd: Crowd, tmp_path: Path) -> None:
    crowd.model("small")
    await crowd.ensemble(vote("small", samples=4))
    async with generation_service(crowd.registry, tmp_path / "few", max_generations=3) as server:
        channels = ChannelPool()
        stub = GenerationServiceStub(channels.get(server.address))
        crowd.stubs.append(stub)
        await crowd.engine("small", "yes")
        messages = [message async for message in stub.Generate(asked())]
        reasons = [step.reason for step in end_of(messages).steps]
        assert reasons.count("TOO_MANY_REQUESTS") >= 2
        assert reasons.count("") == 1
        # Nothing stays held.
        messages = [message async for message in stub.Generate(asked(model="small"))]
        assert text_of(messages) == "yes"
        await channels.close()


async def test_all_members_fail(crowd: Crowd) -> None:
    for name in ("small", "big"):
        crowd.model(name)
        engine = await crowd.engine(name)
        engine.options.max_running = engine.options.max_waiting = 0
    await crowd.ensemble(vote("small", "big"))
    with pytest.raises(QueueFull, match="no model of the ensemble answered: small: "):
        await crowd.collect(asked())


def prefers(token_ids: Sequence[int]) -> Callable[[Sequence[int], int, int], EngineLogprobs]:
    """Log-probabilities of a judge that finds some tokens likely."""

    def logprobs(tokens: Sequence[int], top: int, vocab_size: int) -> EngineLogprobs:
        return EngineLogprobs(chosen=[-0.1 if each in token_ids else -9.0 for each in tokens])

    return logprobs


@pytest.mark.parametrize("kind", ["prompt", "chat"])
async def test_the_judge_scores_the_answers_text_after_the_prompt(crowd: Crowd, kind: str) -> None:
    for name, text in (("small", "brown fox"), ("big", "lazy dog"), ("judge", "unused")):
        crowd.model(name)
        await crowd.engine(name, text)
    judge = crowd.engines["engine-judge"]
    judge.options.logprobs = prefers(crowd.tokenizer.encode_plain("lazy dog"))
    await crowd.ensemble(best_of("small", "big", judge="judge"))
    request = asked()
    if kind == "chat":
        chat = ChatInput(messages=[ChatMessage(role=ROLE_USER, content="which? </s>")])
        request.chat.CopyFrom(chat)
    messages = await crowd.collect(request)
    end = end_of(messages)
    assert text_of(messages) == "lazy dog"
    assert [step.model for step in end.steps] == ["small", "big", "judge", "judge"]
    assert [step.reason for step in end.steps] == ["OUTSCORED", "", "JUDGE", "JUDGE"]
    assert math.isclose(end.steps[1].score, -0.1, rel_tol=1e-5)
    prompt = list(crowd.engines["engine-small"].submits[0].prompt_token_ids)
    answers = {tuple(crowd.tokenizer.encode_plain(each)) for each in ("brown fox", "lazy dog")}
    asked_of_judge = [list(submit.prompt_token_ids) for submit in judge.submits]
    assert all(each[: len(prompt)] == prompt for each in asked_of_judge)
    assert {tuple(each[len(prompt) :]) for each in asked_of_judge} == answers
    assert all(submit.max_tokens == 1 for submit in judge.submits)
    assert not any(message.HasField("prompt_logprobs") for message in messages)


async def test_a_judge_that_is_away_fails_the_generation(crowd: Crowd) -> None:
    crowd.model("small")
    await crowd.engine("small", "one", "two")
    crowd.model("judge", loaded=False)
    await crowd.ensemble(best_of("small", judge="judge", samples=2))
    with pytest.raises(ModelNotLoaded, match="judge judge could score no answer"):
        await crowd.collect(asked())


# Its end.


@pytest.mark.parametrize("name", RECIPES)
async def test_a_caller_that_leaves_frees_every_engine(crowd: Crowd, name: str) -> None:
    for model in ("small", "big"):
        crowd.model(model)
        engine = await crowd.engine(model, LONG)
        engine.may_step.clear()
    crowd.model("off", loaded=False)
    await crowd.ensemble(RECIPES[name])
    call = crowd.stub.Generate(asked())
    reading = asyncio.ensure_future(anext(aiter(call)))
    engines = crowd.engines.values()
    count = 3 if name == "vote" else 2 if name == "best_of" else 1
    await until(lambda: sum(engine.sequences for engine in engines) == count)
    call.cancel()
    await until(lambda: not any(engine.sequences for engine in engines))
    await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize("name", RECIPES)
async def test_a_cancelled_generation_ends_as_one(crowd: Crowd, name: str) -> None:
    for model in ("small", "big"):
        crowd.model(model)
        engine = await crowd.engine(model, LONG)
        engine.may_step.clear()
    crowd.model("off", loaded=False)
    await crowd.ensemble(RECIPES[name])
    reading = asyncio.create_task(crowd.collect(asked(request_id="mine")))
    engines = crowd.engines.values()
    await until(lambda: any(engine.sequences for engine in engines))
    await crowd.stub.CancelGeneration(CancelGenerationRequest(request_id="mine"))
    messages = await reading
    assert end_of(messages).finish_reason == FINISH_REASON_CANCELLED
    await until(lambda: not any(engine.sequences for engine in engines))


@pytest.mark.parametrize("name", RECIPES)
async def test_a_deadline_ends_every_member(crowd: Crowd, name: str) -> None:
    for model in ("small", "big"):
        crowd.model(model)
        engine = await crowd.engine(model, LONG)
        engine.may_step.clear()
    crowd.model("off", loaded=False)
    await crowd.ensemble(RECIPES[name])
    with pytest.raises(DeadlineExceeded):
        await crowd.collect(asked(), timeout=0.3)
    await until(lambda: not any(engine.sequences for engine in crowd.engines.values()))


async def test_the_only_engine_of_a_stream_dies(crowd: Crowd) -> None:
    crowd.model("big")
    big = await crowd.engine("big", LONG)
    await crowd.ensemble(fallback("big"))
    big.options.step_s = 0.01
    reading = asyncio.create_task(crowd.collect(asked()))
    await until(lambda: big.sequences == 1)
    crowd.model("big", loaded=False)
    await crowd.lose(big)
    with pytest.raises(EngineLost):
        await reading


# What else asks for a model.


async def test_other_calls_use_the_first_model(crowd: Crowd) -> None:
    crowd.model("small")
    await crowd.ensemble(vote("small", samples=2))
    for model in ("small", "crowd"):
        counted = await crowd.stub.CountTokens(CountTokensRequest(model=model, prompt="the fox"))
        assert counted.tokens == len(crowd.tokenizer.encode_prompt("the fox"))
        shown = await crowd.stub.GetOutputFormat(GetOutputFormatRequest(model=model))
        assert not shown.reasoning_format
    for model in ("crowd@1", "crowd:stable"):
        with pytest.raises(ModelNotFound, match="is an ensemble"):
            await crowd.collect(asked(model=model))
        with pytest.raises(ModelNotFound, match="is an ensemble"):
            await crowd.stub.CountTokens(CountTokensRequest(model=model, prompt="x"))


@pytest.mark.parametrize(
    ("recipe", "fields", "field"),
    [
        (RECIPES["vote"], {"n": 2}, "n"),
        (RECIPES["cascade"], {"n": 2}, "n"),
        (RECIPES["best_of"], {"tokens": TokenInput(token_ids=[5]), "prompt": None}, "tokens"),
        (
            RECIPES["best_of"],
            {
                "chat": ChatInput(messages=[ChatMessage(role=ROLE_USER, content="x")]),
                "tools": [Tool(name="f")],
                "prompt": None,
            },
            "tools",
        ),
    ],
)
async def test_what_a_recipe_cannot_do_names_its_field(
    crowd: Crowd, recipe: EnsembleRecipe, fields: dict[str, object], field: str
) -> None:
    await crowd.ensemble(recipe)
    with pytest.raises(FeatureNotSupported) as refused:
        await crowd.collect(asked(**fields))
    assert refused.value.field == field


async def test_an_illegal_request_names_its_field(crowd: Crowd) -> None:
    for name in ("small", "big"):
        crowd.model(name)
        await crowd.engine(name)
    for recipe in RECIPES.values():
        await crowd.ensemble(recipe)
        with pytest.raises(InvalidArgument) as refused:
            await crowd.collect(asked(stop_token_ids=[500]))
        assert refused.value.field == "stop_token_ids[0]"


async def test_a_prompt_too_long_for_one_model_is_left_to_others(crowd: Crowd) -> None:
    crowd.model("small")
    crowd.model("big")
    version = ModelVersion(
        version=1, digest=DIGEST, context_tokens=8, vocab_size=500, desired_replicas=1
    )
    crowd.models.put(Model(name="small", versions=[version], default_version=1), crowd.directory)
    for name in ("small", "big"):
        await crowd.engine(name)
    await crowd.ensemble(fallback("small", "big"))
    end = end_of(await crowd.collect(asked(prompt=LONG)))
    assert path(end) == [("small", "CONTEXT_TOO_LONG"), ("big", "")]
    await crowd.ensemble(fallback("small"))
    with pytest.raises(ContextTooLong):
        await crowd.collect(asked(prompt=LONG))


async def test_an_ensemble_whose_model_is_gone_says_so(crowd: Crowd) -> None:
    await crowd.ensemble(fallback("none"))
    with pytest.raises(ModelNotFound, match="there is no model none"):
        await crowd.collect(asked())


async def test_one_that_was_cancelled_with_its_messages_frees_the_id(crowd: Crowd) -> None:
    crowd.model("small")
    engine = await crowd.engine("small")
    engine.may_step.clear()
    await crowd.ensemble(vote("small", samples=2))
    reading = asyncio.create_task(crowd.collect(asked(request_id="mine")))
    await until(lambda: engine.sequences == 2)
    await crowd.stub.CancelGeneration(CancelGenerationRequest(request_id="mine", forget=True))
    with pytest.raises(Cancelled):
        await reading
    await until(lambda: engine.sequences == 0)
    engine.may_step.set()
    assert text_of(await crowd.collect(asked(request_id="mine"))) == "of small"


# Calls of tools.

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}{{ '<|' + message.role + '|>' + (message.content or '') }}"
    "</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    "{# <think> <tool_call> #}"
)


def calling(arguments: str) -> str:
    return f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>'


@pytest.fixture
def with_tools(crowd: Crowd, tmp_path: Path) -> GenerateRequest:
    """A request with a tool, to models whose template takes tools."""
    crowd.directory = tokenizer_files.byte_level(tmp_path / "files", chat_template=TEMPLATE)
    crowd.tokenizer = ModelTokenizer.load(crowd.directory)
    schema = '{"type": "object", "properties": {"days": {"type": "integer"}}}'
    return asked(
        prompt=None,
        chat=ChatInput(messages=[ChatMessage(role=ROLE_USER, content="hello")]),
        tools=[Tool(name="weather", parameters_json_schema=schema)],
    )


async def test_calls_keep_their_ids_when_another_instance_resumes(
    crowd: Crowd, with_tools: GenerateRequest
) -> None:
    crowd.model("off", loaded=False)
    crowd.model("small")
    await crowd.engine("small", "I look. " + calling('{"days": 3}') + calling('{"days": 4}'))
    await crowd.ensemble(fallback("off", "small"))
    messages = await crowd.collect(with_tools)
    end_of(messages)
    undisturbed = calls_of(messages)
    assert [arguments for _, _, arguments in undisturbed] == ['{"days": 3}', '{"days": 4}']
    for cut in range(1, len(messages) - 1, 5):
        recording = Recording()
        for message in messages[:cut]:
            recording.add(message.SerializeToString())
        call = crowd.stubs[1].ResumeGeneration(recording.resume_request(with_tools))
        rest = [answer.message async for answer in call]
        assert calls_of([*messages[:cut], *rest]) == undisturbed


def calls_of(messages: Sequence[GenerateResponse]) -> list[tuple[str, str, str]]:
    """The id, the name and the arguments of each call."""
    response = CompleteResponse()
    whole = WholeOutputs(response)
    for message in messages:
        whole.add(event_of(message))
    whole.complete()
    return [(call.id, call.name, call.arguments) for call in response.tool_calls]


async def test_a_call_that_breaks_its_schema_escalates(
    crowd: Crowd, with_tools: GenerateRequest
) -> None:
    for name, days in (("small", '"three"'), ("big", "3")):
        crowd.model(name)
        await crowd.engine(name, calling(f'{{"days": {days}}}'))
    await crowd.ensemble(cascade("small", "big"))
    messages = await crowd.collect(with_tools)
    assert path(end_of(messages)) == [("small", "INVALID"), ("big", "")]
    assert [arguments for _, _, arguments in calls_of(messages)] == ['{"days": 3}']


async def test_a_vote_compares_calls_by_value(crowd: Crowd, with_tools: GenerateRequest) -> None:
    crowd.model("small")
    texts = ["Hm. " + calling('{"days": 4}'), calling('{"days": 3}'), calling('{ "days":3 }')]
    await crowd.engine("small", *texts)
    await crowd.ensemble(vote("small", samples=3))
    messages = await crowd.collect(with_tools)
    assert [step.score for step in end_of(messages).steps] == [1, 2, 2]
    assert [arguments for _, _, arguments in calls_of(messages)] == ['{"days": 3}']
