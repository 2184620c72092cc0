"""What goes in comes out again, and nothing that was asked for is lost on the way."""

from array import array

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.common.v1.rules_pb2 import rules
from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.engine.v1.engine_pb2 import Submit
from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    SERVICE_TIER_FLEX,
    SERVICE_TIER_STANDARD,
    SERVICE_TIER_UNSPECIFIED,
    AttachGenerationRequest,
    ChatMessage,
    CompleteResponse,
    GenerateRequest,
    ResumeGenerationRequest,
)
from mlxmesh.model.v1 import model_pb2
from mlxmesh_generation import convert, convert_events
from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import (
    CallPiece,
    Chat,
    ChatTurn,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    PromptLogprobs,
    PromptText,
    PromptTokens,
    Snapshot,
    Started,
    Timings,
    TokenLogprob,
    TotalUsage,
)
from mlxmesh_generation.parsers.registry import TOOL_FORMATS
from mlxmesh_generation.placement import convert as engine_convert
from mlxmesh_generation.placement.sequence import EngineConstraint, SequenceRequest
from mlxmesh_generation.streams.plan import Plan, name_callers_field
from mlxmesh_shared.errors import (
    ConstraintInvalid,
    ContextTooLong,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
)
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.rpc.error_status import to_failure


def submit_of(
    request: GenerationRequest, *, max_tokens: int = 1, seed: int = 9, timeout_ms: int | None = None
) -> Submit:
    sequence = SequenceRequest(request, [1, 2], max_tokens, seed, timeout_ms)
    return engine_convert.submit(sequence, 0)


uint32 = st.integers(0, 2**32 - 1)
samplings = st.builds(
    Sampling,
    temperature=st.none() | st.sampled_from([0.0, 0.5, 2.0]),
    top_k=st.none() | uint32,
    seed=st.none() | st.integers(0, 2**64 - 1),
    logit_bias=st.dictionaries(uint32, st.sampled_from([-1.0, 0.5]), max_size=3),
)
requests = st.builds(
    GenerateRequest,
    model=st.sampled_from(["pocket", "pocket@2", "pocket:stable"]),
    prompt=st.text(min_size=1, max_size=20),
    max_tokens=st.none() | st.integers(1, 1_000_000),
    sampling=samplings,
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3),
    stop_token_ids=st.lists(uint32, max_size=3),
    request_id=st.from_regex(r"[A-Za-z0-9._:-]{1,20}", fullmatch=True),
    ignore_eos=st.booleans(),
)


@given(message=requests, seed=st.integers(0, 2**64 - 1))
def test_everything_asked_for_reaches_the_engine(message: GenerateRequest, seed: int) -> None:
    request = convert.generation_request(message)
    assert request.model == ModelReference.parse(message.model)
    assert request.input == PromptText(message.prompt)
    assert (request.request_id, request.stop) == (message.request_id, tuple(message.stop))
    assert request.max_tokens == (message.max_tokens if message.HasField("max_tokens") else None)
    submit = submit_of(request, max_tokens=3, seed=seed, timeout_ms=4)
    expected = Sampling()
    expected.CopyFrom(message.sampling)
    expected.seed = seed
    assert submit.sampling == expected
    assert submit.stop_token_ids == message.stop_token_ids
    assert submit.ignore_eos == message.ignore_eos
    assert (list(submit.prompt_token_ids), submit.max_tokens, submit.timeout_ms) == ([1, 2], 3, 4)


def test_an_engine_learns_who_asks_and_how_urgently() -> None:
    message = GenerateRequest(model="pocket", prompt="x", priority=-3)
    request = convert.generation_request(message, caller="team-a")
    submit = submit_of(request)
    assert (submit.priority, submit.caller) == (-3, "team-a")
    assert request.message_bytes == message.ByteSize()


def test_flex_requests_are_background_sequences() -> None:
    for tier in (SERVICE_TIER_UNSPECIFIED, SERVICE_TIER_STANDARD, SERVICE_TIER_FLEX):
        message = GenerateRequest(model="pocket", prompt="x", service_tier=tier)
        request = convert.generation_request(message)
        flex = tier == SERVICE_TIER_FLEX
        assert (request.flex, submit_of(request).background) == (flex, flex)


def test_the_callers_sampling_is_not_changed() -> None:
    message = GenerateRequest(model="pocket", prompt="x", sampling=Sampling(top_k=5))
    request = convert.generation_request(message)
    submit_of(request)
    assert message.sampling == Sampling(top_k=5)


def test_every_field_of_a_request_is_either_read_or_refused_by_its_rule() -> None:
    read = {
        *("model", "prompt", "chat", "tokens", "max_tokens", "sampling", "stop"),
        *("stop_token_ids", "request_id", "ignore_eos", "priority"),
        *("detached", "keep_request", "client_data", "service_tier"),
        *("json_schema", "regex", "grammar", "choice", "json_object", "logprobs", "n"),
        *("tools", "tool_choice", "parallel_tool_calls", "reasoning", "session_id", "labels"),
        "adapter",
    }
    fields = GenerateRequest.DESCRIPTOR.fields
    refused = {field.name for field in fields if field.GetOptions().Extensions[rules].unsupported}
    assert {field.name for field in fields} == read | refused


def test_no_deadline_is_no_timeout() -> None:
    request = convert.generation_request(GenerateRequest(model="pocket", prompt="x"))
    submit = submit_of(request, seed=0)
    assert not submit.HasField("timeout_ms")


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    message = GenerateRequest(model="pocket", prompt="x")
    ids = {convert.generation_request(message).request_id for _ in range(100)}
    assert len(ids) == 100


def test_a_conversation() -> None:
    roles = ["ROLE_SYSTEM", "ROLE_USER", "ROLE_ASSISTANT", "ROLE_TOOL"]
    message = GenerateRequest(model="pocket")
    for role in roles:
        turn = ChatMessage(role=generation_pb2.Role.Value(role), content=role.lower())
        message.chat.messages.append(turn)
    names = ("system", "user", "assistant", "tool")
    turns = tuple(ChatTurn(name, f"role_{name}") for name in names)
    assert convert.prompt_input(message) == Chat(turns, add_generation_prompt=True)
    message.chat.add_generation_prompt = False
    assert convert.prompt_input(message) == Chat(turns, add_generation_prompt=False)


def test_a_role_that_this_version_does_not_know_is_named() -> None:
    message = GenerateRequest(model="pocket")
    message.chat.messages.add(role=generation_pb2.ROLE_USER)
    message.chat.messages.add(role=77)
    with pytest.raises(InvalidArgument) as caught:
        convert.prompt_input(message)
    assert caught.value.field == "chat.messages[1].role"


def test_token_ids_and_no_input() -> None:
    message = GenerateRequest(model="pocket")
    message.tokens.token_ids.extend([5, 6])
    assert convert.prompt_input(message) == PromptTokens(array("I", [5, 6]))
    with pytest.raises(InvalidArgument):
        convert.prompt_input(GenerateRequest(model="pocket"))


STARTED = Started("r", "pocket", 2, "engine-1", 3, 1, 2**64 - 1, created_ms=1_795_000_000_123)
FINISHED = Finished(FinishReason.STOP, 3, 1, 2, stop_token_id=0, timings=Timings(1.5, 2.5, 3.5))


def test_events_become_messages() -> None:
    started = convert_events.generate_response(1, STARTED)
    assert started.sequence == 1
    assert started.started == generation_pb2.Started(
        request_id="r",
        model="pocket",
        model_version=2,
        engine_id="engine-1",
        prompt_tokens=3,
        cached_tokens=1,
        seed=2**64 - 1,
        create_time=Timestamp(seconds=1_795_000_000, nanos=123_000_000),
    )
    progress = convert_events.generate_response(2, PrefillProgress(10, 20)).prefill_progress
    assert (progress.processed_tokens, progress.total_tokens) == (10, 20)
    delta = convert_events.generate_response(3, Delta("ä", (7, 8))).delta
    assert (delta.text, list(delta.token_ids), delta.index) == ("ä", [7, 8], 0)


@pytest.mark.parametrize(
    ("event", "stopped_by"),
    [
        (FINISHED, "stop_token_id"),
        (Finished(FinishReason.STOP, 3, 1, 2, stop_text="END"), "stop_text"),
        (Finished(FinishReason.LENGTH, 3, 1, 2), None),
        (Finished(FinishReason.CANCELLED, 3, 1, 2), None),
    ],
)
def test_an_end_says_what_stopped_it(event: Finished, stopped_by: str | None) -> None:
    finished = convert_events.generate_response(9, event).finished
    reason = generation_pb2.FinishReason.Name(finished.finish_reason)
    assert reason == f"FINISH_REASON_{event.reason.name}"
    assert finished.WhichOneof("stopped_by") == stopped_by
    assert (finished.usage.prompt_tokens, finished.usage.cached_tokens) == (3, 1)
    assert finished.usage.completion_tokens == 2
    assert finished.timings.prefill_ms == event.timings.prefill_ms


def test_a_whole_generation_in_one_message() -> None:
    events = [STARTED, PrefillProgress(1, 2), Delta("a", (1,)), Delta("b", (2, 3)), FINISHED]
    response = CompleteResponse()
    whole = convert_events.WholeOutputs(response)
    for event in events:
        whole.add(event)
    whole.complete()
    assert (response.text, list(response.token_ids)) == ("ab", [1, 2, 3])
    assert response.started == convert_events.generate_response(1, STARTED).started
    assert response.finished == convert_events.generate_response(1, FINISHED).finished


TOP = tuple(TokenLogprob(100_000 + place, -1.0, b"word") for place in range(20))
LARGE = {
    "text": Delta("a" * 100_000, ()),
    "text of several bytes": Delta("\U0001fae0" * 30_000, (), index=1),
    "reasoning": Delta("", (), reasoning="a" * 100_000),
    "arguments": Delta("", (), calls=(CallPiece(0, "c", "f", "a" * 100_000),)),
    "tokens": Delta("", tuple(range(100_000, 120_000)), index=1),
    "log-probabilities": Delta(
        "", (1,) * 300, logprobs=(TokenLogprob(100_000, -1.0, b"word", TOP),) * 300
    ),
    "the prompt's": PromptLogprobs((TokenLogprob(100_000, -1.0, b"word", TOP),) * 300),
}


def _add_forever(whole: convert_events.WholeOutputs, event: Event) -> None:
    while True:
        whole.add(event)


@pytest.mark.parametrize("event", LARGE.values(), ids=LARGE.keys())
def test_one_message_with_all_outputs_has_a_limit(event: Event) -> None:
    response = CompleteResponse()
    whole = convert_events.WholeOutputs(response)
    with pytest.raises(MessageTooLarge, match="Generate or AttachGeneration"):
        _add_forever(whole, event)
    whole.complete()
    limit = convert_events.MAX_WHOLE_BYTES
    assert 0.7 * limit < response.ByteSize() < 1.3 * limit


def test_the_request_counts_as_a_part_of_the_message() -> None:
    message = GenerateRequest(model="pocket", prompt="a" * convert_events.MAX_WHOLE_BYTES)
    snapshot = Snapshot(message.SerializeToString(), [Delta("a", (1,))], None)
    with pytest.raises(MessageTooLarge):
        convert_events.get_response(snapshot)


def finish_reason_of(output: engine_pb2.SequenceOutput) -> str:
    reason = engine_convert.engine_output(output).finish_reason
    return reason.name if reason else ""


def test_every_reason_of_an_engine_has_its_own() -> None:
    names = set(engine_pb2.EngineFinishReason.keys()) - {"ENGINE_FINISH_REASON_UNSPECIFIED"}
    for name in names:
        output = engine_pb2.SequenceOutput(finish_reason=engine_pb2.EngineFinishReason.Value(name))
        assert finish_reason_of(output) == name.removeprefix("ENGINE_FINISH_REASON_")


def caller_error(failure: Failure, request: GenerationRequest) -> MeshError:
    error = engine_convert.engine_output(engine_pb2.SequenceOutput(failure=failure)).failure
    assert error is not None
    version = ModelVersion("pocket", 1, "d", 100, 100, 1)
    return name_callers_field(error, Plan(request, version, (1,), 9, 0, 0.0, None))


def test_an_engines_failure_names_the_callers_field() -> None:
    request = convert.generation_request(GenerateRequest(model="pocket", prompt="x"))
    failure = to_failure(ContextTooLong("too long", field="prompt_token_ids[7]"))
    error = caller_error(failure, request)
    assert isinstance(error, ContextTooLong)
    assert error.field == "prompt"
    other = to_failure(InvalidArgument("bad", field="sampling.top_p"))
    assert caller_error(other, request).field == "sampling.top_p"


@pytest.mark.parametrize("only", ["", "g"])
def test_a_refused_schema_of_a_tool_is_named(only: str) -> None:
    field = "tools[1].parameters_json_schema"
    message = GenerateRequest(model="pocket")
    message.chat.messages.add(role=generation_pb2.ROLE_USER, content="x")
    message.tools.add(name="f", parameters_json_schema='{"type": "object"}')
    broken = '{"type": "object", "properties": {"a": {"type": "nothing"}}}'
    message.tools.add(name="g", parameters_json_schema=broken)
    message.tool_choice.mode = generation_pb2.TOOL_MODE_REQUIRED
    message.tool_choice.name = only
    request = convert.generation_request(message)
    assert isinstance(request.input, Chat)
    assert request.input.tools is not None
    tools = [one for one in request.input.tools.tools if only in ("", one.name)]
    grammar = TOOL_FORMATS["hermes"].grammar(
        tools, required=True, parallel=True, token_id=lambda _: None
    )
    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(grammar))
    said = matcher.get_error().partition("\n")[0]
    refused = ConstraintInvalid(f"the grammar cannot be used: {said}", field="constraint.lark")
    version = ModelVersion("pocket", 1, "d", 100, 100, 1)
    constraint = EngineConstraint("lark", grammar, field="tool_choice")
    plan = Plan(request, version, (1,), 9, 0, 0.0, None, constraint)
    error = name_callers_field(refused, plan)
    assert error.field == field
    assert error.message == f"{field} cannot be used: Invalid type: nothing"


def test_changes_of_the_catalogue() -> None:
    version = model_pb2.ModelVersion(
        version=2, digest="d", context_tokens=64, vocab_size=10, desired_replicas=1
    )
    message = model_pb2.Model(
        name="pocket", versions=[version], aliases={"stable": 2}, default_version=2
    )
    change = engine_convert.catalogue_change(
        model_pb2.WatchModelsResponse(sequence=3, model=message)
    )
    assert change.sequence == 3
    assert change.model is not None
    assert change.model.aliases == {"stable": 2}
    [found] = change.model.versions.values()
    assert (found.name, found.version, found.digest) == ("pocket", 2, "d")
    assert (found.context_tokens, found.vocab_size, found.desired_replicas) == (64, 10, 1)
    removed = engine_convert.catalogue_change(model_pb2.WatchModelsResponse(removed_name="pocket"))
    assert (removed.model, removed.removed_name, removed.synced) == (None, "pocket", False)
    synced = engine_convert.catalogue_change(
        model_pb2.WatchModelsResponse(synced=model_pb2.Synced())
    )
    assert synced.synced


def test_a_limit_that_the_catalogue_does_not_know_refuses_nothing() -> None:
    message = model_pb2.Model(name="pocket", versions=[model_pb2.ModelVersion(version=1)])
    change = engine_convert.catalogue_change(model_pb2.WatchModelsResponse(model=message))
    assert change.model is not None
    assert change.model.versions[1].context_tokens > 1_000_000
    assert change.model.versions[1].vocab_size > 1_000_000


def test_a_resumed_generation_knows_its_first_message() -> None:
    message = ResumeGenerationRequest(started=convert_events.started(STARTED), after_sequence=1)
    assert convert.resumed(message).started == STARTED
    assert convert.resumed(ResumeGenerationRequest(after_sequence=1)).started is None


def test_a_resumed_generation_knows_who_numbered_what_was_received() -> None:
    numbers = [(1, 7), (2, 7), (3, 9), (4, 0)]
    received = [
        convert_events.generate_response(sequence, Delta("a", (1,)), numbering)
        for sequence, numbering in numbers
    ]
    message = ResumeGenerationRequest(after_sequence=4, numbering=2**32 - 1)
    assert convert.resumed(message).numberings == ((2**32 - 1, 4),)
    message.received.extend(received)
    assert convert.resumed(message).numberings == ((7, 2), (9, 3), (2**32 - 1, 4))
    message.numbering = 7
    assert convert.resumed(message).numberings == ((7, 2), (9, 3), (7, 4))
    assert convert.resumed(ResumeGenerationRequest(after_sequence=4)).numberings == ()


@pytest.mark.parametrize(
    "event", [STARTED, FINISHED, PrefillProgress(1, 2), PromptLogprobs(()), Delta("", ())]
)
def test_every_message_says_who_numbered_it(event: Event) -> None:
    message = convert_events.generate_response(3, event, 2**32 - 1)
    assert (message.sequence, message.numbering) == (3, 2**32 - 1)
    assert convert_events.event_of(message) == event
    assert convert_events.generate_response(3, event).numbering == 0


def test_a_request_to_attach_says_who_numbered_what_was_received() -> None:
    attach = AttachGenerationRequest(request_id="mine", after_sequence=5)
    assert convert.attached_position(attach) is None
    attach.numbering = 2**32 - 1
    assert convert.attached_position(attach) == (5, 2**32 - 1)
    attach.numbered_sequence = 9  # of a caller that reads again from message 5 on
    assert convert.attached_position(attach) == (9, 2**32 - 1)
    attach.numbered_sequence = 4  # too small
    assert convert.attached_position(attach) == (5, 2**32 - 1)


@pytest.mark.parametrize(("said", "known"), [(0, 1), (1, 1), (7, 7)])
def test_which_request_to_resume_it_is(said: int, known: int) -> None:
    assert convert.resumed(ResumeGenerationRequest(takeover=said)).takeover == known


def test_a_request_to_attach_names_the_request_that_it_expects() -> None:
    request = GenerateRequest(model="pocket", prompt="x", request_id="mine")
    attach = AttachGenerationRequest(request_id="mine", generation=request)
    assert convert.attached_digest(attach) == convert.generation_request(request).digest
    assert convert.attached_digest(AttachGenerationRequest(request_id="mine")) is None


CALL = CallPiece(0, "c1", "weather", '{"a"')
SCORE = TokenLogprob(
    7, -0.5, b"\xc3", (TokenLogprob(7, -0.5, b"\xc3"), TokenLogprob(8, -1.5, b"a"))
)
EVERY_EVENT = [
    STARTED,
    PrefillProgress(10, 20),
    PromptLogprobs((TokenLogprob(5, None, b"x"), SCORE)),
    Delta("ä", (7,), 3, "why", (CALL, CallPiece(1, "c2", "time")), (SCORE,)),
    Finished(
        FinishReason.TOOL_CALLS, 3, 1, 2, stop_token_id=0, timings=Timings(1, 2, 3), resumptions=4
    ),
    Finished(
        FinishReason.STOP,
        *(3, 1, 2),
        stop_text="END",
        index=3,
        reasoning_tokens=1,
        total=TotalUsage(9, 1, 1),
    ),
]


@pytest.mark.parametrize("event", EVERY_EVENT)
def test_every_event_comes_back_from_its_message(event: Event) -> None:
    message = convert_events.generate_response(7, event)
    assert message.sequence == 7
    assert convert_events.event_of(message) == event


def test_outputs_of_a_whole_generation_are_apart() -> None:
    response = CompleteResponse()
    whole = convert_events.WholeOutputs(response)
    for event in (
        STARTED,
        PromptLogprobs((TokenLogprob(5, None, b"x"),)),
        Delta("c", (3,), 2),
        Delta("a", (1,), 0, "why", (CALL,), (SCORE,)),
        Delta("", (2,), 0, "", (CallPiece(0, arguments=": 1}"), CallPiece(1, "c2", "time"))),
        Finished(FinishReason.LENGTH, 3, 1, 1, index=2),
        Finished(FinishReason.STOP, 3, 1, 2),
        Finished(FinishReason.STOP, 3, 1, 0, index=1, total=TotalUsage(3, 0)),
    ):
        whole.add(event)
    whole.complete()
    assert (response.text, response.reasoning_text, list(response.token_ids)) == (
        "a",
        "why",
        [1, 2],
    )
    assert [(one.index, one.id, one.name, one.arguments) for one in response.tool_calls] == [
        (0, "c1", "weather", '{"a": 1}'),
        (1, "c2", "time", ""),
    ]
    assert [one.token_id for one in response.logprobs] == [7]
    assert [one.token_id for one in response.prompt_logprobs] == [5]
    assert response.finished.total_usage.completion_tokens == 3
    assert response.finished.usage.completion_tokens == 2
    first, second = response.other_outputs
    assert (first.index, first.text, first.finished.index) == (1, "", 1)
    assert (second.index, second.text, list(second.token_ids)) == (2, "c", [3])
    assert not first.finished.HasField("total_usage")
