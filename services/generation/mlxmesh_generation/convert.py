"""Converts the requests of the generation service to domain objects."""

import json
import re
import secrets
from array import array
from dataclasses import replace
from hashlib import sha256
from itertools import groupby

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    AttachGenerationRequest,
    CountTokensRequest,
    GenerateRequest,
    ResumeGenerationRequest,
)
from mlxmesh_generation import convert_chat, convert_events
from mlxmesh_generation.domain.request import (
    Chat,
    CountRequest,
    Event,
    GenerationRequest,
    LogprobOptions,
    OutputConstraint,
    PromptInput,
    PromptText,
    PromptTokens,
    ReadUpTo,
    ReceivedOutput,
    Resumed,
    SamplingOptions,
)
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.reference import ModelReference

# The form of the ids below: one may come back when its generation is resumed here.
_OWN_ID = re.compile("gen-[0-9a-f]{16}")


def generation_request(
    message: GenerateRequest, *, caller: str = "", owner: str = ""
) -> GenerationRequest:
    """Assigns an id to a request that has none."""
    is_callers = bool(message.request_id) and not _OWN_ID.fullmatch(message.request_id)
    _check_retention(message, is_callers=is_callers)
    source = prompt_input(message)
    _check_ignore_eos(message, source)
    return GenerationRequest(
        request_id=message.request_id or f"gen-{secrets.token_hex(8)}",
        digest=_digest(message) if is_callers else None,
        model=ModelReference.parse(message.model),
        input=source,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        sampling=sampling_options(message.sampling),
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        priority=message.priority,
        flex=message.service_tier == generation_pb2.SERVICE_TIER_FLEX,
        n=message.n or 1,
        constraint=_constraint(message),
        logprobs=_logprobs(message),
        session_id=message.session_id,
        labels=tuple(sorted(message.labels.items())),
        caller=caller,
        owner=owner,
        message_bytes=message.ByteSize(),
        adapter=message.adapter,
        detached=message.detached,
        kept=message.SerializeToString() if message.keep_request else b"",
    )


def _check_retention(message: GenerateRequest, *, is_callers: bool) -> None:
    """Raises: InvalidArgument for a field that lacks the one that it needs."""
    for field in ("detached", "keep_request"):
        if getattr(message, field) and not is_callers:
            raise InvalidArgument(f"{field}: it needs a request_id of yours", field=field)
    if message.client_data and not message.keep_request:
        raise InvalidArgument("client_data: it needs keep_request", field="client_data")


def sampling_options(message: Sampling) -> SamplingOptions:
    return SamplingOptions(
        encoded=message.SerializeToString(),
        seed=message.seed if message.HasField("seed") else None,
        biased_token_ids=tuple(message.logit_bias),
    )


def count_request(message: CountTokensRequest, *, caller: str = "") -> CountRequest:
    return CountRequest(
        model=ModelReference.parse(message.model),
        input=prompt_input(message),
        caller=caller,
        message_bytes=message.ByteSize(),
    )


def resumed(message: ResumeGenerationRequest) -> Resumed:
    """Raises: InvalidArgument for what no generation of this request can have sent."""
    started = message.started if message.HasField("started") else None
    return Resumed(
        outputs=_received_outputs(message),
        prompt_logprobs=message.prompt_logprobs,
        after_sequence=message.after_sequence,
        resumptions=message.resumptions,
        started=None if started is None else convert_events.started_of(started),
        received=_received(message),
        numberings=_numberings(message),
        takeover=max(1, message.takeover),
    )


def _numberings(message: ResumeGenerationRequest) -> tuple[tuple[int, int], ...]:
    ids = {one.sequence: one.numbering for one in message.received}
    if message.numbering:
        ids[message.after_sequence] = message.numbering
    # A stream may come back to an instance, so the same id may stand for several ranges.
    ranges = [[*each][-1] for _, each in groupby(sorted(ids), key=ids.__getitem__)]
    return tuple((ids[last], last) for last in ranges)


def _received_outputs(message: ResumeGenerationRequest) -> dict[int, ReceivedOutput]:
    outputs: dict[int, ReceivedOutput] = {}
    n = message.generation.n or 1
    for place, output in enumerate(message.outputs):
        field = f"outputs[{place}].index"
        if output.index >= n:
            raise InvalidArgument(f"{field}: the request has only {n} outputs", field=field)
        if output.index in outputs:
            raise InvalidArgument(f"{field}: output {output.index} is there twice", field=field)
        outputs[output.index] = _received_output(output)
    if len(outputs) == n and all(output.finished for output in outputs.values()):
        raise InvalidArgument("outputs: all have ended; nothing is left to resume", field="outputs")
    return outputs


def _received_output(message: generation_pb2.ReceivedOutput) -> ReceivedOutput:
    finished = None
    if message.HasField("finished"):
        # The total of the whole generation is counted anew.
        finished = replace(
            convert_events.finished_of(message.finished), index=message.index, total=None
        )
    return ReceivedOutput(
        token_ids=array("I", message.token_ids),
        text_characters=message.text_characters,
        reasoning_characters=message.reasoning_characters,
        tool_calls=message.tool_calls,
        arguments_characters=message.arguments_characters,
        finished=finished,
    )


def _received(message: ResumeGenerationRequest) -> list[Event]:
    """Raises: InvalidArgument unless they are all messages, or none."""
    numbers = [one.sequence for one in message.received]
    if numbers and numbers != list(range(1, message.after_sequence + 1)):
        raise InvalidArgument(
            "received: it must have every message up to after_sequence", field="received"
        )
    return [convert_events.event_of(one) for one in message.received]


def attached_digest(message: AttachGenerationRequest) -> bytes | None:
    """None when the caller did not say what it requested."""
    return _digest(message.generation) if message.HasField("generation") else None


def attached_position(message: AttachGenerationRequest) -> ReadUpTo | None:
    """None when the caller did not say who numbered its messages."""
    sequence = max(message.numbered_sequence, message.after_sequence)
    return ReadUpTo(sequence, message.numbering) if message.numbering else None


def _digest(message: GenerateRequest) -> bytes:
    return sha256(message.SerializeToString(deterministic=True)).digest()


def prompt_input(message: GenerateRequest | CountTokensRequest) -> PromptInput:
    if message.HasField("chat"):
        return convert_chat.chat(message)
    convert_chat.refuse_without_chat(message)
    if message.HasField("prompt"):
        return PromptText(message.prompt)
    if isinstance(message, GenerateRequest) and message.HasField("tokens"):
        return PromptTokens(array("I", message.tokens.token_ids))
    raise InvalidArgument("input: set what the model should continue", field="input")


# Fields that only some requests may have.


def _constraint(message: GenerateRequest) -> OutputConstraint | None:
    """Raises: InvalidArgument for one that cannot be enforced with the other fields."""
    field = message.WhichOneof("constraint")
    if field is None:
        return None
    if message.tools and message.tool_choice.mode != generation_pb2.TOOL_MODE_NONE:
        raise InvalidArgument(
            f"{field}: it cannot be set with tools that the model may call; set one of them, or "
            "tool_choice to none",
            field=field,
        )
    return OutputConstraint(field, _constraint_text(message, field))


def _check_ignore_eos(message: GenerateRequest, source: PromptInput) -> None:
    """Raises: InvalidArgument with a field that needs the end tokens."""
    if not message.ignore_eos:
        return
    field = message.WhichOneof("constraint") or ""
    if message.reasoning.HasField("budget_tokens"):
        field = "reasoning.budget_tokens"
    elif isinstance(source, Chat) and source.tools is not None and source.tools.enforced:
        field = "tools"
    if field:
        raise InvalidArgument(
            f"ignore_eos: it cannot be set with {field}, which needs the model's end tokens",
            field="ignore_eos",
        )


def _constraint_text(message: GenerateRequest, field: str) -> str:
    if field == "choice":
        return json.dumps(list(message.choice.texts))
    if field == "json_object":
        return ""
    text: str = getattr(message, field)
    if field == "json_schema":
        schema = convert_chat.json_value(text, field)
        if not isinstance(schema, dict | bool):
            raise InvalidArgument(f"{field}: a schema is a JSON object, true or false", field=field)
    return text


def _logprobs(message: GenerateRequest) -> LogprobOptions | None:
    if not message.HasField("logprobs"):
        return None
    return LogprobOptions(message.logprobs.top, message.logprobs.prompt)
