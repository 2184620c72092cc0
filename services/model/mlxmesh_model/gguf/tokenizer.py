"""Converts the tokenizer in a GGUF file's metadata to tokenizer.json and tokenizer_config.json.

Two kinds are supported: byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`).
Source: llama.cpp's llama-vocab.cpp; LlamaTokenizer and SentencePieceExtractor of transformers.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from mlxmesh_model.gguf.metadata import BadFile, Metadata, NotSupported
from mlxmesh_model.gguf.pre_tokenizers import splitting_of

MAX_TEMPLATE_BYTES = 2**18
MAX_TOKEN_CHARACTERS = 1024

_SPACE = "\u2581"
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# A generation also ends at these tokens, whatever end token the file names.
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_END_TOKENS = frozenset(
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <|endoftext|> <|end_of_text|> <end_of_turn>".split()
)


class _Type(IntEnum):
    """The values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class GgufTokenizer:
    """The tokenizer in a file's metadata. Methods raise BadFile and NotSupported."""

    metadata: Metadata

    @cached_property
    def tokens(self) -> list[str]:
        """The token of each id."""
        tokens = self.metadata.texts("tokenizer.ggml.tokens")
        if len(set(tokens)) != len(tokens):
            raise BadFile("tokenizer.ggml.tokens has a token twice")
        if max(map(len, tokens)) > MAX_TOKEN_CHARACTERS:
            raise BadFile(
                f"tokenizer.ggml.tokens has one with more than {MAX_TOKEN_CHARACTERS} characters"
            )
        return tokens

    @cached_property
    def _types(self) -> list[int]:
        key = "tokenizer.ggml.token_type"
        if key not in self.metadata:
            return [_Type.NORMAL] * len(self.tokens)
        return [int(value) for value in self.metadata.numbers(key, len(self.tokens))]

    def end_token_ids(self) -> list[int]:
        """The ids of the tokens that end a generation."""
        named = [self._token_id(key) for key in _END_KEYS]
        known = [
            number
            for number, token in enumerate(self.tokens)
            if token in _END_TOKENS and self._types[number] in (_Type.CONTROL, _Type.USER_DEFINED)
        ]
        return sorted({number for number in (*named, *known) if number is not None})

    def config(self, context_tokens: int) -> dict[str, Any]:
        """The contents of tokenizer_config.json."""
        roles = {role: self._token(key) for role, key in _ROLES.items()}
        template = self.metadata.text("tokenizer.chat_template", default="")
        if len(template.encode()) > MAX_TEMPLATE_BYTES:
            raise BadFile(f"tokenizer.chat_template is larger than {MAX_TEMPLATE_BYTES} bytes")
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": context_tokens,
            **{role: token for role, token in roles.items() if token is not None},
            **({"chat_template": template} if template else {}),
        }

    def build(self) -> Tokenizer:
        """The tokenizer, to be saved as tokenizer.json."""
        kind = self.metadata.text("tokenizer.ggml.model")
        if kind == "gpt2":
            tokenizer, adds_bos = self._byte_level()
        elif kind == "llama":
            tokenizer, adds_bos = self._sentencepiece(), True
        else:
            raise NotSupported(f"tokenizer.ggml.model is {kind}; gpt2 and llama are supported")
        self._add_special(tokenizer)
        self._frame(tokenizer, adds_bos)
        if tokenizer.get_vocab_size() != len(self.tokens):
            raise BadFile("tokenizer.ggml.tokens and tokenizer.ggml.token_type do not match")
        return tokenizer

    def _byte_level(self) -> tuple[Tokenizer, bool]:
        splitting = splitting_of(self.metadata.text("tokenizer.ggml.pre", default=""))
        model = self._bpe(self._listed_merges(), ignore_merges=splitting.whole_tokens_first)
        tokenizer = Tokenizer(model)
        if splitting.composes:
            tokenizer.normalizer = splitting.normalizer()
        tokenizer.pre_tokenizer = splitting.pre_tokenizer()
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer, splitting.adds_bos

    def _sentencepiece(self) -> Tokenizer:
        unknown = self._token("unknown_token_id") or "<unk>"
        model = self._bpe(
            merges_by_score(self.tokens, self._scores()),
            unk_token=unknown if unknown in self.tokens else None,
            fuse_unk=True,
            byte_fallback=True,
        )
        tokenizer = Tokenizer(model)
        prefixed = self.metadata.flag("tokenizer.ggml.add_space_prefix", default=True)
        prepend = [normalizers.Prepend(_SPACE)] if prefixed else []
        tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", _SPACE)])
        strip = [decoders.Strip(" ", 1, 0)] if prefixed else []
        steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        tokenizer.decoder = decoders.Sequence(steps)
        return tokenizer

    def _scores(self) -> list[float]:
        return self.metadata.numbers("tokenizer.ggml.scores", len(self.tokens))

    def _bpe(self, merges: list[tuple[str, str]], **options: Any) -> BPE:
        vocab = {token: number for number, token in enumerate(self.tokens)}
        for left, right in merges:
            if left not in vocab or right not in vocab or left + right not in vocab:
                raise BadFile("tokenizer.ggml.merges has a pair that is not in the vocabulary")
        try:
            return BPE(vocab, merges, **options)
        except Exception as error:  # the library has no narrower one
            raise BadFile(f"its vocabulary is not a BPE vocabulary: {error}") from error

    def _listed_merges(self) -> list[tuple[str, str]]:
        merges: list[tuple[str, str]] = []
        for merge in self.metadata.texts("tokenizer.ggml.merges"):
            # The first character may be a space itself.
            left, _, right = merge[1:].partition(" ")
            merges.append((merge[:1] + left, right))
        return merges

    def _add_special(self, tokenizer: Tokenizer) -> None:
        """Adds the tokens that are matched as a whole; decoded text omits special ones."""
        roles = {self._token(key) for key in _ROLES.values()}
        adding: Any = tokenizer  # its stubs leave the types of the lists open
        for token, kind in zip(self.tokens, self._types, strict=True):
            if kind in (_Type.CONTROL, _Type.UNKNOWN) or token in roles:
                adding.add_special_tokens([AddedToken(token, normalized=False, special=True)])
            elif kind == _Type.USER_DEFINED:
                adding.add_tokens([AddedToken(token, normalized=False, special=False)])

    def _frame(self, tokenizer: Tokenizer, adds_bos: bool) -> None:
        """Adds BOS and EOS around a text if the file requests them."""
        flags = (
            ("bos_token_id", "add_bos_token", adds_bos),
            ("eos_token_id", "add_eos_token", False),
        )
        before, after = (
            self._token(key)
            if self.metadata.flag(f"tokenizer.ggml.{flag}", default=usual)
            else None
            for key, flag, usual in flags
        )
        if before is None and after is None:
            return
        special = [(token, self.tokens.index(token)) for token in (before, after) if token]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*([before] if before else []), "$A", *([after] if after else [])],
            special_tokens=special,
        )

    def _token_id(self, key: str) -> int | None:
        return self.metadata.optional_integer(f"tokenizer.ggml.{key}", 0, len(self.tokens) - 1)

    def _token(self, key: str) -> str | None:
        number = self._token_id(key)
        return None if number is None else self.tokens[number]


def merges_by_score(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """The merges of a SentencePiece vocabulary: each split of a token into two tokens, best first.

    SentencePiece merges the pair whose result has the best score, which merges in this order
    reproduce.
    """
    rank = {token: number for number, token in enumerate(tokens)}
    merges: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in rank and right in rank:
                merges.append((-score, rank[left], rank[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]
