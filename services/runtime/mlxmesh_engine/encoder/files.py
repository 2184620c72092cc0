"""Reads the configuration of an encoder model's directory, without MLX.

Source of the format: sentence-transformers writes modules.json, a folder with a config.json for
each module, and sentence_bert_config.json. Without modules.json, vectors are means of the tokens'.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mlxmesh_engine.encoder.words import find_token_ids
from mlxmesh_engine.forward.model_config import context_tokens, read_config, vocab_size
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.host.json_file import UnusableJson, read_json_object, read_json_objects

_Json = Mapping[str, Any]
Kind = Literal["embedding", "rerank"]

BIDIRECTIONAL = frozenset({"bert", "distilbert", "mpnet", "roberta", "xlm-roberta"})
CAUSAL = frozenset({"llama", "mistral", "qwen2", "qwen3"})
SHIFTED_POSITIONS = frozenset({"mpnet", "roberta", "xlm-roberta"})
"""Architectures whose positions begin after that of the padding token."""
POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""In the order in which their vectors are joined."""
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}
_WITHOUT_EFFECT = frozenset({"Transformer", "Dropout"})
_MAX_LABELS = 2
_WORDS = ("yes", "no")
"""The answers whose logits a language model scores with, if its files name no others."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer after pooling, and the folder of its weights."""

    folder: Path
    activation: str
    bias: bool


@dataclass(frozen=True, slots=True)
class Normalize:
    """Divides a vector by its length."""


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """What the files of a model say about its vectors or scores."""

    config: _Json
    kind: Kind
    vocab_size: int
    context_tokens: int
    pooling: tuple[str, ...] = ("mean",)
    steps: tuple[Dense | Normalize, ...] = ()
    labels: int = 0
    """The classes of a classifier; 0 for a model without such a head."""
    answers: tuple[int, int | None] | None = None
    """The tokens for yes and no whose logits give the score; None as its second for yes alone."""

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @property
    def causal(self) -> bool:
        return self.model_type in CAUSAL


def read_encoder(model_dir: Path, kind: Kind, configured_tokens: int = 0) -> EncoderFiles:
    """Raises: InvalidArgument, FeatureNotSupported; messages name what is missing or unknown."""
    config = read_config(model_dir)
    _check_supported(config)
    modules = _modules(model_dir)
    labels = _labels(config)
    facts: dict[str, Any] = {
        "config": config,
        "kind": kind,
        "vocab_size": vocab_size(config),
        "context_tokens": _context_tokens(model_dir, config, configured_tokens),
    }
    if kind == "rerank":
        if labels:
            return EncoderFiles(**facts, labels=labels, pooling=())
        return EncoderFiles(**facts, answers=_answers(model_dir, config, modules), pooling=())
    if labels:
        raise _refusal("it scores texts; register it with the kind rerank")
    if modules is None:
        return EncoderFiles(**facts, pooling=("lasttoken" if _is_causal(config) else "mean",))
    pooling, steps = _pipeline(modules)
    return EncoderFiles(**facts, pooling=pooling, steps=steps)


def _pipeline(
    modules: list[tuple[str, Path]],
) -> tuple[tuple[str, ...], tuple[Dense | Normalize, ...]]:
    """The modes of pooling, and what follows it."""
    pooling: tuple[str, ...] | None = None
    steps: list[Dense | Normalize] = []
    for name, folder in modules:
        if name == "Pooling" and pooling is None:
            pooling = _pooling(_json(folder / "config.json"))
        elif name == "Dense" and pooling is not None:
            steps.append(_dense(folder))
        elif name == "Normalize" and pooling is not None:
            steps.append(Normalize())
        elif name not in _WITHOUT_EFFECT:
            raise _refusal(f"its modules.json has the module {name}, which is not supported there")
    if pooling is None:
        raise _refusal("its modules.json has no Pooling")
    return pooling, tuple(steps)


def _check_supported(config: _Json) -> None:
    model_type = str(config["model_type"])
    if model_type not in BIDIRECTIONAL | CAUSAL:
        known = ", ".join(sorted(BIDIRECTIONAL | CAUSAL))
        raise _refusal(f"vectors and scores come from {known}, not from {model_type}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise _refusal(f"its position_embedding_type is {config['position_embedding_type']}")
    if config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        raise _refusal("its attention goes in both directions, unlike mlx-lm's")
    if config.get("use_sliding_window"):
        raise _refusal("its attention has a sliding window (use_sliding_window)")
    if config.get("is_decoder") and not _is_causal(config):
        raise _refusal("it is a decoder (is_decoder)")


def _is_causal(config: _Json) -> bool:
    return config["model_type"] in CAUSAL


def _context_tokens(model_dir: Path, config: _Json, configured: int) -> int:
    """The longest input; the catalogue has the same rule."""
    declared = dict(config)
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int):
        if config["model_type"] in SHIFTED_POSITIONS:
            positions -= padding_token(config) + 1
        longest = _json(model_dir / "sentence_bert_config.json", {}).get("max_seq_length")
        if isinstance(longest, int) and longest > 0:
            positions = min(positions, longest)
        declared["max_position_embeddings"] = positions
    return context_tokens(declared, configured)


def padding_token(config: _Json) -> int:
    """The id of the padding token; positions of some architectures begin after it."""
    token_id = config.get("pad_token_id", 1)
    return token_id if isinstance(token_id, int) else 1


def _labels(config: _Json) -> int:
    names = config.get("architectures") or ()
    if not any(str(name).endswith("ForSequenceClassification") for name in names):
        return 0
    listed = config.get("id2label")
    number = int(config.get("num_labels", _MAX_LABELS))
    if isinstance(listed, dict):
        number = len(cast("dict[str, object]", listed))
    if not 1 <= number <= _MAX_LABELS:
        raise _refusal(f"it tells {number} classes apart; a model with 1 or 2 gives a score")
    return number


def _modules(model_dir: Path) -> list[tuple[str, Path]] | None:
    """The type and folder of each module; None without modules.json."""
    path = model_dir / "modules.json"
    if not path.is_file():
        return None
    try:
        listed = read_json_objects(path)
    except UnusableJson as error:
        raise InvalidArgument(f"{path} {error}", field="model_dir") from error
    found: list[tuple[str, Path]] = []
    for module in listed:
        folder = str(module.get("path", ""))
        if "/" in folder or folder == "..":
            raise InvalidArgument(f"{path} names the folder {folder}", field="model_dir")
        found.append((str(module.get("type")).rpartition(".")[2], model_dir / folder))
    return found


def _pooling(config: _Json) -> tuple[str, ...]:
    named = config.get("pooling_mode")
    if isinstance(named, str | list):
        listed = named.split("+") if isinstance(named, str) else cast("list[object]", named)
        modes = [str(mode) for mode in listed]
    else:
        modes = [mode for mode in POOLING_MODES if config.get(_flag(mode)) is True]
    if unknown := sorted(set(modes) - set(POOLING_MODES)):
        raise _refusal(f"its pooling mode is {', '.join(unknown)}")
    if not modes:
        raise _refusal("its Pooling has no mode")
    if config.get("include_prompt") is False:
        raise _refusal("its Pooling leaves out the prompt (include_prompt)")
    return tuple(mode for mode in POOLING_MODES if mode in modes)


def _flag(mode: str) -> str:
    """The name of a mode in a configuration: pooling_mode_mean_tokens, pooling_mode_cls_token."""
    endings = {"cls": "cls_token", "lasttoken": "lasttoken", "mean_sqrt_len_tokens": mode}
    return f"pooling_mode_{endings.get(mode, f'{mode}_tokens')}"


def _dense(folder: Path) -> Dense:
    config = _json(folder / "config.json")
    name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise _refusal(f"the activation {name} of its Dense module is not supported")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise _refusal(f"its Dense module changes {config[key]}, not the vector")
    if not (folder / "model.safetensors").is_file():
        raise _refusal(f"{folder.name} has no model.safetensors; convert its weights")
    return Dense(folder, _ACTIVATIONS[name], bool(config.get("bias", True)))


def _answers(
    model_dir: Path, config: _Json, modules: list[tuple[str, Path]] | None
) -> tuple[int, int | None]:
    """The tokens that LogitScore names, else those of the words yes and no."""
    if not _is_causal(config):
        raise _refusal("it has no head that scores; register it with the kind embedding")
    size = vocab_size(dict(config))
    for name, folder in modules or ():
        if name == "LogitScore":
            score = _json(folder / "config.json")
            return _named_answers(score.get("true_token_id"), score.get("false_token_id"), size)
    yes, no = find_token_ids(model_dir, _WORDS)
    if yes is None or no is None or max(yes, no) >= size:
        raise _refusal(
            "its tokenizer has no tokens `yes` and `no`, whose logits would be the score"
        )
    return yes, no


def _named_answers(yes: object, no: object, size: int) -> tuple[int, int | None]:
    found = [each if isinstance(each, int) and 0 <= each < size else None for each in (yes, no)]
    if found[0] is None or found[1] != no:
        raise _refusal("its LogitScore names no tokens of its vocabulary")
    return found[0], found[1]


def _json(path: Path, default: _Json | None = None) -> _Json:
    if default is not None and not path.is_file():
        return default
    try:
        return read_json_object(path)
    except (UnusableJson, FileNotFoundError) as error:
        raise InvalidArgument(f"{path}: {error}", field="model_dir") from error


def _refusal(why: str) -> FeatureNotSupported:
    return FeatureNotSupported(f"this model cannot be served: {why}", field="model_dir")
