"""What a model directory serves, by its configuration. Pure.

`docs/models.md` has the rules in words; `mlxmesh_engine.encoder.files` reads the same files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from mlxmesh_model.catalogue.models import ModelKind

_Json = Mapping[str, Any]

ENCODERS = frozenset({"bert", "distilbert", "mpnet", "roberta", "xlm-roberta"})
"""The architectures with attention in both directions that engines can load."""
DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""The architectures of mlx-lm whose hidden states engines can pool."""
VISION_MODEL_TYPES = frozenset({"idefics3", "qwen2_5_vl", "qwen2_vl", "smolvlm"})
"""The architectures of mlx-vlm that engines of the kind vision can load."""
_MAX_LABELS = 2


class UnusableKind(ValueError):
    """The files contradict the kind; the message continues a sentence about the directory."""


@dataclass(frozen=True, slots=True)
class KindFiles:
    """The files that tell the kind of a model."""

    config: _Json
    modules: Sequence[_Json] | None = None
    """modules.json of sentence-transformers; None without it."""
    module_configs: Mapping[str, _Json] = field(default_factory=dict[str, _Json])
    """The config.json in the folder of each module, by the folder's name."""
    transformer: _Json = field(default_factory=dict[str, Any])
    """sentence_bert_config.json."""

    def of_type(self, name: str) -> list[_Json]:
        """The configurations of the modules of a type, in order."""
        return [
            self.module_configs.get(str(module.get("path")), {})
            for module in self.modules or ()
            if module_type(module) == name
        ]


def module_type(module: _Json) -> str:
    """The class of a module: the last part of its type."""
    return str(module.get("type")).rpartition(".")[2]


def kind_of(files: KindFiles, wanted: ModelKind | None = None) -> ModelKind:
    """The kind that the files tell, or the wanted one.

    Raises: UnusableKind if the model cannot be of the wanted kind, or has too many labels.
    """
    kind = wanted or _told(files)
    encoder = files.config.get("model_type") in ENCODERS or _is_classifier(files)
    if encoder and kind not in (ModelKind.EMBEDDING, ModelKind.RERANK):
        raise UnusableKind(f"is an encoder, which serves embedding or rerank, not {kind}")
    if kind is ModelKind.EMBEDDING and _is_classifier(files):
        raise UnusableKind("scores texts, so it serves rerank, not embedding")
    if kind is ModelKind.RERANK and encoder and not _is_classifier(files):
        raise UnusableKind("has no head that scores, so it serves embedding, not rerank")
    if kind is ModelKind.VISION and not files.config.get("vision_config"):
        raise UnusableKind("has no vision_config, so it cannot serve vision")
    if kind is ModelKind.RERANK and _is_classifier(files) and labels(files.config) > _MAX_LABELS:
        raise UnusableKind(
            f"tells {labels(files.config)} classes apart; a model with 1 or 2 gives a score"
        )
    return kind


def dimensions_of(files: KindFiles, kind: ModelKind) -> int:
    """The length of the vectors; 0 unless the kind is embedding."""
    if kind is not ModelKind.EMBEDDING:
        return 0
    dense = files.of_type("Dense")
    if dense:
        return _number(dense[-1].get("out_features"))
    pooling = files.of_type("Pooling")
    modes = _modes(pooling[0]) if pooling else 1
    hidden = files.config.get("hidden_size") or files.config.get("dim")
    return max(1, modes) * _number(hidden)


def _modes(pooling: _Json) -> int:
    """How many vectors pooling joins."""
    named = pooling.get("pooling_mode")
    if isinstance(named, str | list):
        return named.count("+") + 1 if isinstance(named, str) else len(cast("list[object]", named))
    return sum(each is True for key, each in pooling.items() if key.startswith("pooling_mode_"))


def encoder_context_tokens(files: KindFiles, declared: int) -> int:
    """The longest input of an encoder or reranker.

    declared: max_position_embeddings. RoBERTa's and MPNet's first positions stand for padding.
    """
    if files.config.get("model_type") in ("roberta", "xlm-roberta", "mpnet"):
        padding = files.config.get("pad_token_id", 1)
        declared -= padding + 1 if isinstance(padding, int) else 2
    longest = files.transformer.get("max_seq_length")
    if isinstance(longest, int) and not isinstance(longest, bool) and longest > 0:
        declared = min(declared, longest)
    return declared


def labels(config: _Json) -> int:
    """The number of classes of a classifier, as transformers counts them; 2 by default."""
    names = config.get("id2label")
    if isinstance(names, dict):
        return len(cast("dict[str, object]", names))
    number = config.get("num_labels", _MAX_LABELS)
    return number if isinstance(number, int) else _MAX_LABELS


def _told(files: KindFiles) -> ModelKind:
    if _is_classifier(files) or files.of_type("LogitScore"):
        return ModelKind.RERANK
    model_type = files.config.get("model_type")
    if model_type in ENCODERS or files.of_type("Pooling"):
        return ModelKind.EMBEDDING
    if files.config.get("vision_config") and model_type in VISION_MODEL_TYPES:
        return ModelKind.VISION
    return ModelKind.GENERATION


def _is_classifier(files: KindFiles) -> bool:
    named: object = files.config.get("architectures")
    names = cast("list[object]", named) if isinstance(named, list) else []
    return any(str(name).endswith("ForSequenceClassification") for name in names)


def _number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**20:
        return value
    raise UnusableKind("does not specify the length of its vectors")
