"""Small tokenizers of the three families, trained on the spot and saved as a model's files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}"
    "{{ raise_exception('tools are not for this model') }}"
    "{% endif %}"
    "{{ '<|' + message.role + '|>' + message.content + '</s>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
CORPUS = [
    "the quick brown fox jumps over the lazy dog, again and again.",
    "Größe, naïve, Übermut; ça va? Ещё один пример.",
    "日本語のテキスト、漢字とかな。 สวัสดีชาวโลก नमस्ते दुनिया",
    "def main():\n    return {'a': [1, 2, 3]}\n",
] * 20


def byte_level(directory: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """As of GPT-2, Llama 3 and Qwen: every token is bytes, any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _save(tokenizer, directory, chat_template)


def byte_level_in_sequence(directory: Path) -> Path:
    """A byte-level vocabulary whose decoder is not simply the byte-level one."""
    byte_level(directory)
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    tokenizer.save(path)
    return directory


def with_bos(directory: Path) -> Path:
    """As of Llama 3: the tokenizer itself puts a BOS before every text."""
    byte_level(directory)
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(path)
    return directory


def metaspace(directory: Path) -> Path:
    """As of Llama 2: spaces are written ▁, and what is in no token falls back to bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=[*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=60,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # The byte tokens were special only to get their places in the vocabulary.
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][: len(SPECIAL_TOKENS)]
    return _save(Tokenizer.from_str(json.dumps(state)), directory, None)


def word_piece(directory: Path) -> Path:
    """As of BERT: words are joined with spaces, their later pieces begin with ##."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _save(tokenizer, directory, None)


def without_fast_form(directory: Path) -> Path:
    """As of ByT5, which transformers runs in Python: raw bytes, no vocabulary file."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {"tokenizer_class": "ByT5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def with_special_tokens(
    make: Callable[[Path], Path], directory: Path, tokens: Sequence[str], chat_template: str
) -> Path:
    """One of the tokenizers here, with more special tokens and another chat template."""
    make(directory)
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.save(path)
    (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return directory


def _save(tokenizer: Tokenizer, directory: Path, chat_template: str | None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    if chat_template is not None:
        (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory
