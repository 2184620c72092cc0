"""Scripts of what generations write, and the complete response that a script comes to."""

from __future__ import annotations

from collections.abc import Sequence

from mlxmesh.generation.v1 import generation_pb2 as g

Script = Sequence[g.GenerateResponse]
USAGE = g.Usage(prompt_tokens=7, cached_tokens=2, completion_tokens=5, reasoning_tokens=2)


def token(text: str | bytes, logprob: float | None = -0.5, *top: g.TokenLogprob) -> g.TokenLogprob:
    """A token and its log-probability; None for the first of an input."""
    data = text.encode() if isinstance(text, str) else text
    return g.TokenLogprob(token_id=sum(data), logprob=logprob, bytes=data, top=top)


def delta(
    text: str = "",
    *,
    index: int = 0,
    reasoning: str = "",
    calls: Sequence[g.ToolCall] = (),
    logprobs: Sequence[g.TokenLogprob] = (),
) -> g.GenerateResponse:
    """New output; its tokens are those of `logprobs`, or one."""
    made = g.Delta(
        index=index,
        text=text,
        reasoning_text=reasoning,
        tool_calls=calls,
        logprobs=logprobs,
        token_ids=[one.token_id for one in logprobs] or [1],
    )
    return g.GenerateResponse(delta=made)


def call(index: int, arguments: str, *, name: str = "") -> g.ToolCall:
    """A piece of a call; the first one has a name."""
    call_id = f"call_{index + 1}" if name else ""
    return g.ToolCall(index=index, id=call_id, name=name, arguments=arguments)


def prompt(*tokens: g.TokenLogprob) -> g.GenerateResponse:
    """Log-probabilities of the input."""
    return g.GenerateResponse(prompt_logprobs=g.PromptLogprobs(tokens=tokens))


def finished(
    reason: g.FinishReason.ValueType = g.FINISH_REASON_STOP, *, index: int = 0, last: bool = True
) -> g.GenerateResponse:
    """The end of an output. last: whether it is the last message."""
    made = g.Finished(index=index, finish_reason=reason, usage=USAGE)
    if last:
        made.total_usage.CopyFrom(USAGE)
    return g.GenerateResponse(finished=made)


def numbered(message: g.GenerateResponse, sequence: int) -> g.GenerateResponse:
    """The message with its number."""
    made = g.GenerateResponse(sequence=sequence)
    made.MergeFrom(message)
    return made


def complete_response(started: g.Started, script: Script) -> g.CompleteResponse:
    """What Complete answers where Generate streams the script."""
    outputs: dict[int, g.Output] = {}
    tokens: list[g.TokenLogprob] = []
    for message in script:
        if message.HasField("delta"):
            index = message.delta.index
            _add(outputs.setdefault(index, g.Output(index=index)), message.delta)
        elif message.HasField("finished"):
            index = message.finished.index
            outputs.setdefault(index, g.Output(index=index)).finished.CopyFrom(message.finished)
        elif message.HasField("prompt_logprobs"):
            tokens.extend(message.prompt_logprobs.tokens)
    first, *others = (outputs[index] for index in sorted(outputs))
    total = max((one.finished for one in outputs.values()), key=lambda one: one.ByteSize())
    first.finished.total_usage.CopyFrom(total.total_usage)
    return g.CompleteResponse(
        started=started,
        text=first.text,
        token_ids=first.token_ids,
        finished=first.finished,
        reasoning_text=first.reasoning_text,
        tool_calls=first.tool_calls,
        logprobs=first.logprobs,
        other_outputs=others,
        prompt_logprobs=tokens,
    )


def _add(output: g.Output, new: g.Delta) -> None:
    output.text += new.text
    output.reasoning_text += new.reasoning_text
    output.token_ids.extend(new.token_ids)
    output.logprobs.extend(new.logprobs)
    for piece in new.tool_calls:
        if piece.index == len(output.tool_calls):
            output.tool_calls.append(piece)
        else:
            output.tool_calls[piece.index].arguments += piece.arguments
