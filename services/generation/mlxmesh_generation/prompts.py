"""From what the caller sent to token ids, within the model's limits."""

import asyncio
from collections.abc import Collection, Sequence

from mlxmesh_generation.catalogue import ModelVersion
from mlxmesh_generation.request import (
    Chat,
    GenerationRequest,
    PromptInput,
    PromptText,
    Resumed,
)
from mlxmesh_generation.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import ContextTooLong, InvalidArgument

DEFAULT_MAX_TOKENS = 512
# Shorter text takes less time to tokenize than a thread takes to start on it.
INLINE_CHARACTERS = 4_096


async def token_ids(source: PromptInput, tokenizer: ModelTokenizer) -> Sequence[int]:
    """The prompt's ids, not yet checked against any limit.

    Raises: InvalidArgument(field="chat") when there is no template or it refuses.
    """
    if isinstance(source, PromptText):
        if len(source.text) <= INLINE_CHARACTERS:
            return tokenizer.encode_prompt(source.text)
        return await asyncio.to_thread(tokenizer.encode_prompt, source.text)
    if isinstance(source, Chat):
        return await asyncio.to_thread(_chat_token_ids, source, tokenizer)
    return source.token_ids


def _chat_token_ids(chat: Chat, tokenizer: ModelTokenizer) -> Sequence[int]:
    if tokenizer.chat is None:
        raise InvalidArgument(
            "this model has no chat template; send a prompt instead", field="chat"
        )
    return tokenizer.encode_rendered(tokenizer.chat.render(chat))


def check_vocabulary(request: GenerationRequest, version: ModelVersion) -> None:
    """Raises: InvalidArgument naming the first token id that the model does not have."""
    size = version.vocab_size
    if not isinstance(request.input, PromptText | Chat):
        _check_ids(request.input.token_ids, size, "tokens.token_ids[{index}]")
    _check_ids(request.stop_token_ids, size, "stop_token_ids[{index}]")
    _check_ids(request.sampling.logit_bias, size, "sampling.logit_bias[{token_id}]")


def check_resumed(
    resumed: Resumed, request: GenerationRequest, version: ModelVersion, max_tokens: int
) -> None:
    """Raises: InvalidArgument for tokens that this request cannot have given."""
    field = "generated_token_ids"
    _check_ids(resumed.token_ids, version.vocab_size, field + "[{index}]")
    if request.max_tokens is not None and len(resumed.token_ids) > max_tokens:
        raise InvalidArgument(
            f"{field} has {len(resumed.token_ids)} tokens, the request allows {max_tokens}",
            field=field,
        )


def _check_ids(ids: Collection[int], size: int, path: str) -> None:
    if max(ids, default=0) < size:
        return
    for index, token_id in enumerate(ids):
        if token_id >= size:
            field = path.format(index=index, token_id=token_id)
            raise InvalidArgument(
                f"{field}: token {token_id} is outside the vocabulary of {size}", field=field
            )


def max_tokens(request: GenerationRequest, version: ModelVersion, prompt_tokens: int) -> int:
    """How many tokens to generate at most.

    Raises: InvalidArgument for an empty prompt, ContextTooLong when the prompt alone or with the
    asked for max_tokens is longer than the context.
    """
    name = request.input.field
    if prompt_tokens == 0:
        raise InvalidArgument(f"{name} comes to no tokens; send some text", field=name)
    left = version.context_tokens - prompt_tokens
    if left < 1:
        raise ContextTooLong(
            f"{name} comes to {prompt_tokens} tokens, the context of {version} holds "
            f"{version.context_tokens}; shorten it",
            field=name,
        )
    wanted = request.max_tokens
    if wanted is None:
        return min(DEFAULT_MAX_TOKENS, left)
    if wanted > left:
        raise ContextTooLong(
            f"max_tokens {wanted} with a prompt of {prompt_tokens} tokens exceeds the context of "
            f"{version.context_tokens}; ask for at most {left}",
            field="max_tokens",
        )
    return wanted
