"""Converts text completions to the contract's messages."""

from __future__ import annotations

import hashlib

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.completion_schema import CompletionRequest, Prompt
from mlxmesh_gateway.openai.convert import generation_of
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's, for text completions."""


def text_generations(
    request: CompletionRequest, *, request_id: str = ""
) -> list[pb.GenerateRequest]:
    """One for each prompt. Raises: InvalidArgument, FeatureNotSupported."""
    _check(request)
    common = generation_of(request, "", _max_tokens(request))
    _set_logprobs(common, request)
    several = len(request.prompt) > 1
    made: list[pb.GenerateRequest] = []
    for number, prompt in enumerate(request.prompt):
        generation = pb.GenerateRequest()
        generation.CopyFrom(common)
        _set_prompt(generation, prompt)
        generation.request_id = _numbered(request_id, number) if several else request_id
        made.append(generation)
    return made


def _max_tokens(request: CompletionRequest) -> int:
    return DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens


def _check(request: CompletionRequest) -> None:
    if request.max_tokens == 0:
        raise InvalidArgument(
            "max_tokens must be 1 or more; for the log-probabilities of a prompt send"
            " max_tokens: 1 with echo and logprobs, and leave out the last token",
            field="max_tokens",
        )
    if request.best_of not in (None, request.n or 1):
        raise FeatureNotSupported(
            "best_of is not supported unless it equals n; send n, and choose by logprobs",
            field="best_of",
        )


def _set_logprobs(generation: pb.GenerateRequest, request: CompletionRequest) -> None:
    if request.logprobs is not None:
        generation.logprobs.top = request.logprobs
        generation.logprobs.prompt = bool(request.echo)
        generation.logprobs.SetInParent()
    elif request.echo and not all(isinstance(one, str) for one in request.prompt):
        # The texts of token ids come with their log-probabilities alone.
        generation.logprobs.prompt = True


def _set_prompt(generation: pb.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        generation.prompt = prompt
    else:
        generation.tokens.token_ids.extend(prompt)
        generation.tokens.SetInParent()


def _numbered(request_id: str, number: int) -> str:
    """A request_id for each prompt of a request that has one."""
    if not request_id:
        return ""
    return f"key-{hashlib.sha256(f'{number} {request_id}'.encode()).hexdigest()}"
