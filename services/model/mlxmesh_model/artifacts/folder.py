"""Validates a model directory and reads its properties."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mlxmesh_model.artifacts.kinds import (
    KindFiles,
    UnusableKind,
    dimensions_of,
    encoder_context_tokens,
    kind_of,
)
from mlxmesh_model.artifacts.safetensors import NotSafetensors, Tensor, read_tensors
from mlxmesh_model.catalogue.models import Artifact, ModelKind
from mlxmesh_shared.artifacts.digests import digest_of, sha256
from mlxmesh_shared.errors import IllegalState, InvalidArgument
from mlxmesh_shared.host.json_file import (
    MIB,
    UnusableJson,
    max_file_bytes,
    read_json_object,
    read_json_objects,
)

# The files that a model may consist of, in the top directory and in the folders of modules of
# sentence-transformers. No others are read, hashed or pulled: in particular no code (.py), no
# pickles (.bin, .pt, .pkl), and no weights that engines ignore.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}")
_WEIGHTS = re.compile(r"model[A-Za-z0-9._-]{0,250}\.safetensors")
_MODULE = re.compile(r"[0-9]{1,2}_[A-Za-z]{1,64}")
_MODULE_CONFIG = re.compile(rf"{_MODULE.pattern}/config\.json")
_MODULE_WEIGHTS = re.compile(rf"{_MODULE.pattern}/model\.safetensors")
_TEXT_SUFFIXES = (".json", ".jinja", ".tiktoken", "tokenizer.model", "merges.txt", "vocab.txt")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

# The engine's default when the configuration has no context length. tests/contract/
# test_model_config.py checks that this module and the engine have the same rules.
DEFAULT_CONTEXT_TOKENS = 4096
# The keys that make mlx-lm run code of the model.
_CODE_KEYS = {"config.json": ("auto_map", "model_file"), "tokenizer_config.json": ("auto_map",)}
_DTYPES = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8",
}
_Json = dict[str, Any]


def is_weights(name: str) -> bool:
    """Whether a file with this name contains weights."""
    return bool(_WEIGHTS.fullmatch(name) or _MODULE_WEIGHTS.fullmatch(name))


def is_text(name: str) -> bool:
    """Whether a file with this name configures a model or its tokenizer."""
    if _MODULE_CONFIG.fullmatch(name):
        return True
    return bool(_PLAIN_NAME.fullmatch(name)) and name.endswith(_TEXT_SUFFIXES)


def is_tokenizing(name: str) -> bool:
    """Whether tokenizing needs a file with this name."""
    return is_text(name) and "/" not in name and not name.endswith(".safetensors.index.json")


def is_pickle(name: str) -> bool:
    """Whether a file with this name could run code when it is loaded."""
    return name.endswith(_PICKLES)


def inspect(
    directory: Path,
    *,
    field: str = "directory",
    known_sha256: Mapping[str, str] | None = None,
    kind: str = "",
    sha256_of: Callable[[Path], str] = sha256,
) -> Artifact:
    """The properties of a model directory; reads each file without a known SHA-256 once.

    kind: what it serves; empty if its files decide. sha256_of: reads the others.
    Raises: InvalidArgument, which names the field and what is missing or wrong.
    """
    try:
        wanted = ModelKind(kind) if kind else None
        model = _ModelDirectory(directory)

        def digest(name: str) -> str:
            return (known_sha256 or {}).get(name) or sha256_of(model.files[name])

        return _inspect(model, digest, wanted)
    except _Unusable as error:
        raise InvalidArgument(f"{directory}: {error}", field=field) from error
    except OSError as error:
        raise InvalidArgument(
            f"{directory}: cannot be read: {error.strerror}", field=field
        ) from error


def model_files(directory: Path) -> dict[str, Path]:
    """The real paths of the files that a model consists of, by name.

    Raises: InvalidArgument, OSError.
    """
    try:
        return _ModelDirectory(directory).files
    except _Unusable as error:
        raise InvalidArgument(f"{directory}: {error}", field="directory") from error


def tokenizer_files(directory: Path) -> dict[str, Path]:
    """The files that tokenizing needs, by name.

    Raises: IllegalState when the directory is no longer valid.
    """
    try:
        files = _ModelDirectory(directory).files
    except (_Unusable, OSError) as error:
        raise IllegalState(f"{directory}: {error}; register the model again") from error
    return {name: path for name, path in files.items() if is_tokenizing(name)}


class _Unusable(Exception):
    """The directory cannot be served; the message says why."""


class _ModelDirectory:
    """The files of a model directory, by name."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise _Unusable("is not a directory on the model service's host")
        self.path = directory.resolve()
        self.names = sorted(_names(self.path))
        self.files = {
            name: self._inside(name) for name in self.names if is_weights(name) or is_text(name)
        }

    def _inside(self, name: str) -> Path:
        """The real path of a file; a link may only lead to the blobs of a hub cache."""
        real = (self.path / name).resolve()
        homes = [(self.path / name).parent]
        if self.path.parent.name == "snapshots":
            homes.append(self.path.parent.parent / "blobs")
        if real.parent not in homes or not real.is_file():
            raise _Unusable(f"{name} is not a file inside the directory")
        max_bytes = max_file_bytes(Path(name).name)
        if is_text(name) and real.stat().st_size > max_bytes:
            raise _Unusable(f"{name} is larger than {max_bytes // MIB} MiB")
        return real

    def json(self, name: str) -> _Json:
        """A JSON object; empty when the file does not exist."""
        if name not in self.files:
            return {}
        try:
            return read_json_object(self.files[name])
        except UnusableJson as error:
            raise _Unusable(f"{name} {error}") from error

    def modules(self) -> list[_Json] | None:
        """The modules of sentence-transformers; None if the directory is not one of its models."""
        if "modules.json" not in self.files:
            return None
        try:
            return read_json_objects(self.files["modules.json"])
        except UnusableJson as error:
            raise _Unusable(f"modules.json {error}") from error


def _names(directory: Path) -> Iterator[str]:
    """The names of files in a directory and, with their folder, in its folders of modules."""
    for path in directory.iterdir():
        if _MODULE.fullmatch(path.name) and path.is_dir():
            yield from (f"{path.name}/{inner.name}" for inner in path.iterdir())
        else:
            yield path.name


def _inspect(
    model: _ModelDirectory, sha256_of: Callable[[str], str], wanted: ModelKind | None
) -> Artifact:
    config = _checked_config(model)
    weights = _checked_weights(model)
    if not any(name in model.files for name in _TOKENIZERS):
        raise _Unusable(f"has no tokenizer; one of {', '.join(_TOKENIZERS)} is needed")
    tensors = [tensor for name in weights for tensor in _tensors(name, model.files[name])]
    quantization = _object(config.get("quantization"))
    files = _kind_files(model, config)
    kind, dimensions = _kind(files, wanted)
    context_tokens = _number(config, "max_position_embeddings", DEFAULT_CONTEXT_TOKENS)
    if kind in (ModelKind.EMBEDDING, ModelKind.RERANK):
        context_tokens = encoder_context_tokens(files, context_tokens)
    return Artifact(
        directory=str(model.path),
        digest=digest_of({name: sha256_of(name) for name in model.files}),
        architecture=str(config["model_type"]),
        parameters=_parameters(tensors, quantization),
        weights_bytes=sum(tensor.size_bytes for tensor in tensors),
        dtype=_dtype(tensors, quantization),
        context_tokens=context_tokens,
        vocab_size=_number(config, "vocab_size"),
        kind=kind,
        dimensions=dimensions,
    )


def _kind_files(model: _ModelDirectory, config: _Json) -> KindFiles:
    modules = model.modules()
    folders = {str(module.get("path")) for module in modules or ()} - {""}
    for folder in sorted(folders):
        if not _MODULE.fullmatch(folder):
            raise _Unusable(
                f"modules.json names the folder {folder[:64]!r}, not one like 1_Pooling"
            )
    return KindFiles(
        config,
        modules,
        {folder: model.json(f"{folder}/config.json") for folder in folders},
        model.json("sentence_bert_config.json"),
    )


def _kind(files: KindFiles, wanted: ModelKind | None) -> tuple[ModelKind, int]:
    """What the model serves, and the length of its vectors."""
    try:
        kind = kind_of(files, wanted)
        return kind, dimensions_of(files, kind)
    except UnusableKind as error:
        raise _Unusable(str(error)) from error


def _checked_config(model: _ModelDirectory) -> _Json:
    if "config.json" not in model.files:
        raise _Unusable("has no config.json")
    config = model.json("config.json")
    model.json("generation_config.json")  # engines read it
    for name, keys in _CODE_KEYS.items():
        for key in keys:
            if key in model.json(name):
                raise _Unusable(f"{name} has {key}, which runs the model's own code; not allowed")
    if not isinstance(config.get("model_type"), str):
        raise _Unusable("config.json has no model_type")
    if config.get("text_config") and not isinstance(config["text_config"], dict):
        raise _Unusable("config.json has a text_config that is not a JSON object")
    return config


def _checked_weights(model: _ModelDirectory) -> list[str]:
    weights = [name for name in model.files if is_weights(name)]
    if all("/" in name for name in weights) and any(map(is_pickle, model.names)):
        raise _Unusable("has pickled weights only, which can run code; convert to safetensors")
    if all("/" in name for name in weights):
        raise _Unusable("has no model*.safetensors weights")
    index = _object(model.json("model.safetensors.index.json").get("weight_map"))
    absent = sorted({str(name) for name in index.values()} - set(weights))
    if absent:
        raise _Unusable(f"lacks {absent[0]}, which its index names, as a model*.safetensors file")
    return weights


def _tensors(name: str, path: Path) -> list[Tensor]:
    try:
        return read_tensors(path)
    except NotSafetensors as error:
        raise _Unusable(f"{name} is not a complete safetensors file: {error}") from error


def _parameters(tensors: list[Tensor], quantization: _Json) -> int:
    """Parameters before quantization: a packed word has 32 / bits of them, scales have none."""
    scaled = {t.name.removesuffix("scales") for t in tensors if t.name.endswith(".scales")}
    total = 0
    for tensor in tensors:
        layer, _, part = tensor.name.rpartition(".")
        if f"{layer}." not in scaled:
            total += tensor.elements
        elif part == "weight":
            total += tensor.elements * 32 // _bits(quantization, layer)
    return total


def _bits(quantization: _Json, layer: str) -> int:
    """The bits of a layer, which may differ from the default."""
    bits = _object(quantization.get(layer)).get("bits") or quantization.get("bits")
    if not isinstance(bits, int) or not 0 < bits <= 32:
        raise _Unusable("config.json does not specify the bits of its quantization")
    return bits


def _dtype(tensors: list[Tensor], quantization: _Json) -> str:
    if quantization:
        return f"{_bits(quantization, '')}-bit"
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.size_bytes
    if not sizes:
        raise _Unusable("its weights are empty")
    dtype = sizes.most_common(1)[0][0]
    return _DTYPES.get(dtype, dtype.lower())


def _number(config: _Json, key: str, default: int | None = None) -> int:
    """A positive number of the language model, which may be in a multimodal text_config."""
    value = config.get(key)
    if value is None:
        value = _object(config.get("text_config")).get(key)
    if value is None:
        value = default
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**32:
        return value
    raise _Unusable(f"config.json has no {key}, or it is not a positive number")


def _object(value: object) -> _Json:
    """A JSON object; empty for any other value."""
    return cast("_Json", value) if isinstance(value, dict) else {}
