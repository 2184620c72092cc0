"""What a model's files say about texts that are encoded: prompts, lengths, end tokens.

Source: sentence-transformers 5, SentenceTransformer.encode_query and models.Transformer; the model
cards of Qwen3-Embedding and Qwen3-Reranker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from mlxmesh_generation.domain.encoding import Purpose
from mlxmesh_shared.host.json_file import UnusableJson, read_json_object, read_json_objects

QWEN3 = "qwen3"
_PROMPT_NAMES = {
    Purpose.QUERY: ("query",),
    Purpose.DOCUMENT: ("document", "passage", "corpus"),
}
_QWEN3_PROMPTS = {
    "query": (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        "Query:"
    )
}
_MAX_PROMPT_CHARACTERS = 65_536


@dataclass(frozen=True)
class EncoderFiles:
    """The settings of a model that encodes texts; empty for files that have none."""

    model_type: str = ""
    """As in config.json, such as bert or qwen3."""
    eos_token_id: int | None = None
    max_tokens: int | None = None
    """A limit below the model's context; None without one."""
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt: str = ""
    """The name of the prompt of texts without a purpose; empty for none."""
    normalizes: bool = False
    """Whether engines give its vectors length 1."""

    def prompt(self, purpose: Purpose) -> str:
        """What is put before a text."""
        names = _PROMPT_NAMES.get(purpose, (self.default_prompt,))
        return next((self.prompts[name] for name in names if name in self.prompts), "")

    @classmethod
    def read(cls, directory: Path) -> "EncoderFiles":
        """Reads a directory's files. Raises: OSError, UnusableJson."""
        config = _object(directory / "config.json")
        settings = _object(directory / "config_sentence_transformers.json")
        limit = _object(directory / "sentence_bert_config.json").get("max_seq_length")
        model_type = config.get("model_type")
        prompts = _texts(settings.get("prompts"))
        if model_type == QWEN3 and not settings:
            prompts = _QWEN3_PROMPTS
        default = settings.get("default_prompt_name")
        return cls(
            model_type=model_type if isinstance(model_type, str) else "",
            eos_token_id=_count(_first(config.get("eos_token_id"))),
            max_tokens=_count(limit) or None,
            prompts=prompts,
            default_prompt=default if isinstance(default, str) else "",
            normalizes=_normalizes(directory / "modules.json"),
        )


NO_ENCODER_FILES = EncoderFiles()


def _object(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _normalizes(path: Path) -> bool:
    modules = read_json_objects(path) if path.is_file() else []
    return any(str(each.get("type")).endswith(".Normalize") for each in modules)


def _texts(value: object) -> dict[str, str]:
    """Raises: UnusableJson for a prompt that is too long."""
    if not isinstance(value, dict):
        return {}
    entries = cast("dict[str, object]", value).items()
    texts = {name: text for name, text in entries if isinstance(text, str)}
    if any(len(text) > _MAX_PROMPT_CHARACTERS for text in texts.values()):
        raise UnusableJson(f"has a prompt of more than {_MAX_PROMPT_CHARACTERS} characters")
    return texts


def _first(value: object) -> object:
    if isinstance(value, list):
        values = cast("list[object]", value)
        return values[0] if values else None
    return value


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**32 else None
