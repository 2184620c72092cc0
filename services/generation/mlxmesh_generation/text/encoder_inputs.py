"""Makes the inputs of encoders from texts, within the model's context.

Source: the model cards of Qwen3-Embedding and Qwen3-Reranker for their formats; CrossEncoder of
sentence-transformers for pairs.
"""

from array import array
from collections.abc import Sequence
from typing import Any

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.encoding import (
    EmbedRequest,
    EncoderInput,
    RerankRequest,
)
from mlxmesh_generation.text.encoder_files import QWEN3
from mlxmesh_generation.text.prompts import check_length
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_generation.text.worker_threads import FairThreadPool
from mlxmesh_shared.errors import ContextTooLong, FeatureNotSupported, InvalidArgument

INLINE_CHARACTERS = 4_096
"""Tokenizing shorter texts takes less time than handing them to a thread."""

_DECODERS = frozenset({"llama", "mistral", "qwen2"})
_RERANK_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and"
    ' the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
_RERANK_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_RERANK_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class EncoderInputs:
    """Tokenizes on threads that callers share fairly."""

    def __init__(self, threads: FairThreadPool) -> None:
        self._threads = threads

    async def of_embed(
        self, request: EmbedRequest, tokenizer: ModelTokenizer, version: ModelVersion
    ) -> list[EncoderInput]:
        """The inputs of a request. Raises: InvalidArgument, ContextTooLong, naming the input."""
        characters = sum(len(each) for each in request.inputs)
        if characters <= INLINE_CHARACTERS:
            return embed_inputs(request, tokenizer, version)
        return await self._threads.run(request.caller, embed_inputs, request, tokenizer, version)

    async def of_rerank(
        self, request: RerankRequest, tokenizer: ModelTokenizer, version: ModelVersion
    ) -> list[EncoderInput]:
        """A pair for each document. Raises: ContextTooLong, which names the document."""
        characters = len(request.query) + sum(map(len, request.documents))
        if characters <= INLINE_CHARACTERS:
            return rerank_inputs(request, tokenizer, version)
        return await self._threads.run(request.caller, rerank_inputs, request, tokenizer, version)


def embed_inputs(
    request: EmbedRequest, tokenizer: ModelTokenizer, version: ModelVersion
) -> list[EncoderInput]:
    """Blocks while it tokenizes. Raises: InvalidArgument, ContextTooLong."""
    context = _Context(tokenizer, version, truncate=request.truncate)
    before = tokenizer.encoder.prompt(request.purpose)
    texts = {place: each for place, each in enumerate(request.inputs) if isinstance(each, str)}
    for place, text in texts.items():
        context.check_length(text, f"inputs[{place}].text")
    pieces = iter(tokenizer.pieces(list(texts.values()), before=before))
    end = _missing_end(tokenizer)
    room = context.tokens - tokenizer.frame_tokens() - len(end)
    inputs: list[EncoderInput] = []
    for place, each in enumerate(request.inputs):
        name = f"inputs[{place}]"
        if isinstance(each, str):
            piece = context.fitted(next(pieces), room, f"{name}.text")
            token_ids, _ = tokenizer.framed(piece)
            inputs.append(_input([*token_ids, *end], f"{name}.text"))
        else:
            inputs.append(_input(context.given(each, f"{name}.tokens"), f"{name}.tokens"))
    return inputs


def rerank_inputs(
    request: RerankRequest, tokenizer: ModelTokenizer, version: ModelVersion
) -> list[EncoderInput]:
    """Blocks while it tokenizes. Raises: ContextTooLong."""
    context = _Context(tokenizer, version, truncate=request.truncate)
    context.check_length(request.query, "query")
    for place, text in enumerate(request.documents):
        context.check_length(text, f"documents[{place}]")
    if tokenizer.encoder.model_type == QWEN3:
        return _judged(request, tokenizer, context)
    if tokenizer.encoder.model_type in _DECODERS:
        raise FeatureNotSupported(
            f"model: how a {tokenizer.encoder.model_type} is asked about documents is not known;"
            " cross-encoders and Qwen3-Reranker are served",
            field="model",
        )
    return _pairs(request, tokenizer, context)


def _pairs(
    request: RerankRequest, tokenizer: ModelTokenizer, context: "_Context"
) -> list[EncoderInput]:
    """The query and a document each, for a cross-encoder."""
    query, *documents = tokenizer.pieces([request.query, *request.documents])
    room = context.tokens - tokenizer.frame_tokens(pair=True) - len(query)
    if room < 1:
        raise context.too_long("query", len(query))
    inputs: list[EncoderInput] = []
    for place, document in enumerate(documents):
        piece = context.fitted(document, room, f"documents[{place}]")
        token_ids, second_start = tokenizer.framed(query, piece)
        inputs.append(_input(token_ids, f"documents[{place}]", second_start))
    return inputs


def _judged(
    request: RerankRequest, tokenizer: ModelTokenizer, context: "_Context"
) -> list[EncoderInput]:
    """A question about each document, which Qwen3-Reranker answers with yes or no."""
    before = tokenizer.encode_rendered(_RERANK_BEFORE)
    after = tokenizer.encode_rendered(_RERANK_AFTER)
    instruction = request.instruction or _RERANK_INSTRUCTION
    asked = f"<Instruct>: {instruction}\n<Query>: {request.query}\n<Document>: "
    question, *pieces = tokenizer.pieces([asked, *(asked + text for text in request.documents)])
    room = context.tokens - len(before) - len(after)
    if len(question) >= room:
        raise context.too_long("query", len(question))
    inputs: list[EncoderInput] = []
    for place, whole in enumerate(pieces):
        piece = context.fitted(whole, room, f"documents[{place}]")
        token_ids = [*before, *tokenizer.piece_ids(piece), *after]
        inputs.append(_input(token_ids, f"documents[{place}]"))
    return inputs


def _missing_end(tokenizer: ModelTokenizer) -> list[int]:
    """The end token that Qwen3-Embedding makes its vector of, if the tokenizer adds none."""
    files = tokenizer.encoder
    if files.model_type != QWEN3 or files.eos_token_id is None or tokenizer.frame_tokens():
        return []
    return [files.eos_token_id]


def _input(token_ids: Sequence[int], field: str, second_start: int = 0) -> EncoderInput:
    """Raises: InvalidArgument for no tokens."""
    if not token_ids:
        raise InvalidArgument(f"{field} comes to no tokens; send some text", field=field)
    # A list of Python's integers takes nine times the memory.
    return EncoderInput(array("I", token_ids), second_start)


class _Context:
    """How many tokens an input may have, and what becomes of longer ones."""

    def __init__(self, tokenizer: ModelTokenizer, version: ModelVersion, *, truncate: bool) -> None:
        self.tokens = min(
            version.context_tokens, tokenizer.encoder.max_tokens or version.context_tokens
        )
        self._tokenizer = tokenizer
        self._version = version
        self._truncate = truncate

    def check_length(self, text: str, field: str) -> None:
        """Raises: ContextTooLong for a text that is too long to be tokenized."""
        if not self._truncate:
            check_length(text, self._tokenizer, self._version, field)

    def fitted(self, piece: Any, room: int, field: str) -> Any:
        """The piece, cut to its room if the request says so. Raises: ContextTooLong."""
        if len(piece) > room:
            if not self._truncate:
                raise self.too_long(field, len(piece) + self.tokens - room)
            self._tokenizer.shorten(piece, room)
        return piece

    def given(self, token_ids: Sequence[int], field: str) -> Sequence[int]:
        """Token ids, unchanged but for a cut. Raises: InvalidArgument, ContextTooLong."""
        size = self._version.vocab_size
        if max(token_ids, default=0) >= size:
            place = next(place for place, each in enumerate(token_ids) if each >= size)
            path = f"{field}.token_ids[{place}]"
            raise InvalidArgument(
                f"{path}: token {token_ids[place]} is outside the vocabulary of {size}", field=path
            )
        if len(token_ids) > self.tokens and not self._truncate:
            raise self.too_long(field, len(token_ids))
        return token_ids[: self.tokens]

    def too_long(self, field: str, tokens: int) -> ContextTooLong:
        return ContextTooLong(
            f"{field} comes to {tokens} tokens, of which {self._version} takes {self.tokens};"
            " shorten it, or set truncate",
            field=field,
        )
