"""Pre-tokenization: how a byte-level vocabulary splits a text before merges apply.

`tokenizer.ggml.pre` names the pre-tokenizer. An unknown name is rejected, because a wrong split
would silently produce wrong tokens.
Source: the regular expressions of llm_tokenizer_bpe in llama.cpp's llama-vocab.cpp.
"""

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from mlxmesh_model.gguf.metadata import NotSupported

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGIT = r"\p{N}"
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT)


@dataclass(frozen=True, slots=True)
class Splitting:
    """Splits by `patterns`, one after another, and with `words` by GPT-2's pattern last."""

    patterns: tuple[str, ...]
    words: bool = False
    whole_tokens_first: bool = False
    """A piece that is itself a token is not split further."""
    adds_bos: bool = False
    """The default of the file's add_bos_token."""
    composes: bool = False
    """The text is normalized to NFC first."""

    def pre_tokenizer(self) -> PreTokenizer:
        """The splits, followed by the byte-level encoding."""
        splits: list[PreTokenizer] = [
            pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns
        ]
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.words)
        return pre_tokenizers.Sequence([*splits, bytes_])

    def normalizer(self) -> Normalizer | None:
        """The normalizer that runs before the splits."""
        return normalizers.NFC() if self.composes else None


_GPT2 = Splitting((), words=True)
_DIGITS_GPT2 = Splitting((_DIGIT,), words=True)
_OF_LLAMA3 = Splitting((_LLAMA3,), whole_tokens_first=True, adds_bos=True)
_OF_QWEN2 = Splitting((_QWEN2,), composes=True)
_NAMES = {
    "gpt-2 phi-2 mpt olmo jais": _GPT2,
    "smollm starcoder refact command-r codeshell exaone minerva-7b": _DIGITS_GPT2,
    "llama-bpe llama3 llama-v3 falcon3 pixtral": _OF_LLAMA3,
    "smaug-bpe dbrx": Splitting((_LLAMA3,)),
    "qwen2 deepseek-r1-qwen": _OF_QWEN2,
    "deepseek-coder": Splitting(_DEEPSEEK_CODER),
    "tekken": Splitting((_TEKKEN,), whole_tokens_first=True, adds_bos=True),
}
SPLITTINGS = {name: splitting for names, splitting in _NAMES.items() for name in names.split()}


def splitting_of(name: str) -> Splitting:
    """The pre-tokenizer with this name. Raises: NotSupported, which names it."""
    if name not in SPLITTINGS:
        raise NotSupported(
            f"its pre-tokenizer (tokenizer.ggml.pre) is {name or 'not named'}; "
            f"{', '.join(sorted(SPLITTINGS))} are supported"
        )
    return SPLITTINGS[name]
