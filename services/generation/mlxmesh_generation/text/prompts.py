"""Tokenizes a request's input, within the model's limits."""

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import (
    Chat,
    GenerationRequest,
    Image,
    PlacedImage,
    PromptInput,
    PromptText,
    Resumed,
)
from mlxmesh_generation.text.conversation import conversation
from mlxmesh_generation.text.rendering import ChatTemplate, Rendered, Renderers
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_generation.text.worker_threads import FairThreadPool
from mlxmesh_shared.errors import ContextTooLong, InvalidArgument

DEFAULT_MAX_TOKENS = 512
# Tokenizing shorter text takes less time than handing it to a thread.
INLINE_CHARACTERS = 4_096
# Text up to CHEAP_BYTES is tokenized whenever it may fit. Longer text is refused if it could fit
# only with more than CAPPED_TOKEN_BYTES per token, which no real text has.
CHEAP_BYTES = 2**20
CAPPED_TOKEN_BYTES = 16


@dataclass(frozen=True)
class Prompt:
    """A tokenized input."""

    token_ids: Sequence[int]
    text: str = ""
    """What the chat template made, the caller's special texts in it marked; empty for others."""
    images: tuple[PlacedImage, ...] = ()


class Prompts:
    """Tokenizes inputs on threads that callers share fairly."""

    def __init__(self, threads: FairThreadPool, renderers: Renderers) -> None:
        self._threads = threads
        self._renderers = renderers

    def expect(self, source: PromptInput) -> None:
        """Starts in advance what tokenizing this input will need."""
        if isinstance(source, Chat):
            self._renderers.warm()

    async def token_ids(
        self, source: PromptInput, tokenizer: ModelTokenizer, version: ModelVersion, *, caller: str
    ) -> Sequence[int]:
        """The input's token ids, as tokenize() makes them."""
        return (await self.tokenize(source, tokenizer, version, caller=caller)).token_ids

    async def tokenize(
        self,
        source: PromptInput,
        tokenizer: ModelTokenizer,
        version: ModelVersion,
        *,
        caller: str,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> Prompt:
        """The prompt of an input, checked only roughly against the context.

        variables: what a chat template gets beside the conversation.
        Raises: InvalidArgument(field="chat") when there is no template or it refuses,
        InvalidArgument(field="tools") when it does so only because of the tools, ContextTooLong for
        a text so long that it cannot fit.
        """
        if isinstance(source, PromptText):
            check_length(source.text, tokenizer, version, "prompt")
            if len(source.text) <= INLINE_CHARACTERS:
                return Prompt(_compact(tokenizer.encode_prompt(source.text)))
            return Prompt(await self._threads.run(caller, _prompt_ids, source, tokenizer))
        if isinstance(source, Chat):
            render = partial(self._chat, variables=variables)
            return await self._threads.run(caller, render, source, tokenizer, version)
        return Prompt(source.token_ids)

    async def plain_ids(
        self, text: str, tokenizer: ModelTokenizer, *, caller: str
    ) -> Sequence[int]:
        """The ids of text that continues a prompt; it never becomes a special token."""
        if len(text) <= INLINE_CHARACTERS:
            return tokenizer.encode_plain(text)
        return await self._threads.run(caller, tokenizer.encode_plain, text)

    def _chat(
        self,
        chat: Chat,
        tokenizer: ModelTokenizer,
        version: ModelVersion,
        *,
        variables: Mapping[str, Any],
    ) -> Prompt:
        rendered = self._rendered(chat, _template(tokenizer), variables)
        check_length(rendered.text, tokenizer, version, "chat")
        token_ids = tokenizer.encode_rendered(rendered.text, has_marks=rendered.has_marks)
        images = _placed(chat.images, token_ids, tokenizer.image_token_id)
        return Prompt(_compact(token_ids), rendered.text, images)

    def _rendered(
        self, chat: Chat, template: ChatTemplate, variables: Mapping[str, Any]
    ) -> Rendered:
        values = conversation(chat, template.source, variables)
        try:
            return self._renderers.render(template, values)
        except InvalidArgument as error:
            if chat.tools is None:
                raise
            del values["tools"]
            self._renderers.render(template, values)
            raise InvalidArgument(f"with these tools, {error}", field="tools") from error


def _placed(
    images: Sequence[Image], token_ids: Sequence[int], image_token_id: int | None
) -> tuple[PlacedImage, ...]:
    """Raises: InvalidArgument."""
    if not images:
        return ()
    places = [at for at, token_id in enumerate(token_ids) if token_id == image_token_id]
    if len(places) != len(images):
        raise InvalidArgument(
            f"chat: the model's chat template made {len(places)} image tokens of {len(images)} "
            "images; send images in messages of the user only",
            field="chat",
        )
    return tuple(map(PlacedImage, images, places))


def check_length(text: str, tokenizer: ModelTokenizer, version: ModelVersion, field: str) -> None:
    """Raises: ContextTooLong for text that is too long to tokenize."""
    limit = max_text_bytes(version.context_tokens, tokenizer.max_token_bytes)
    # No character has more than four bytes: most texts need not be encoded to see that they pass.
    if 4 * len(text) > limit and len(text.encode()) > limit:
        raise ContextTooLong(
            f"{field} comes to more than the {limit} bytes that may fit into the context of "
            f"{version}, {version.context_tokens} tokens; shorten it",
            field=field,
        )


def max_text_bytes(context_tokens: int, max_token_bytes: int | None) -> int:
    """Longer text cannot fit, unless it is unlike any real text."""
    cap = max(CHEAP_BYTES, CAPPED_TOKEN_BYTES * context_tokens)
    return cap if max_token_bytes is None else min(cap, max_token_bytes * context_tokens)


def _template(tokenizer: ModelTokenizer) -> ChatTemplate:
    if tokenizer.chat is None:
        raise InvalidArgument(
            "this model has no chat template; send a prompt instead", field="chat"
        )
    return tokenizer.chat


def _prompt_ids(source: PromptText, tokenizer: ModelTokenizer) -> Sequence[int]:
    return _compact(tokenizer.encode_prompt(source.text))


def _compact(token_ids: Sequence[int]) -> Sequence[int]:
    # A list of Python's integers takes nine times the memory.
    return array("I", token_ids)


def check_vocabulary(request: GenerationRequest, version: ModelVersion) -> None:
    """Raises: InvalidArgument naming the first token id outside the vocabulary."""
    size = version.vocab_size
    if not isinstance(request.input, PromptText | Chat):
        _check_ids(request.input.token_ids, size, "tokens.token_ids[{index}]")
    _check_ids(request.stop_token_ids, size, "stop_token_ids[{index}]")
    _check_ids(request.sampling.biased_token_ids, size, "sampling.logit_bias[{token_id}]")


def check_resumed(
    resumed: Resumed, request: GenerationRequest, version: ModelVersion, max_tokens: int
) -> None:
    """Raises: InvalidArgument for tokens that this request cannot have generated."""
    for number, output in resumed.outputs.items():
        field = f"outputs[{number}].token_ids"
        _check_ids(output.token_ids, version.vocab_size, field + "[{index}]")
        if request.max_tokens is not None and len(output.token_ids) > max_tokens:
            raise InvalidArgument(
                f"{field} has {len(output.token_ids)} tokens, the request allows {max_tokens}",
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
    """The maximum number of tokens to generate.

    Raises: InvalidArgument for an empty prompt, ContextTooLong when the prompt alone or with the
    requested max_tokens exceeds the context.
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
