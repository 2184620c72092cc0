"""Loads an encoder model's directory; runs on the MLX thread."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.encoder.bidirectional import BidirectionalModel, Progress
from mlxmesh_engine.encoder.causal import AnswerHead, CausalClassifierHead, CausalModel
from mlxmesh_engine.encoder.classifiers import ClassifierHead
from mlxmesh_engine.encoder.files import EncoderFiles, Kind, read_encoder
from mlxmesh_engine.encoder.inputs import TokenInput
from mlxmesh_engine.encoder.pooling import Head, VectorHead
from mlxmesh_engine.encoder.tokens import TokenBatch
from mlxmesh_engine.encoder.weights import (
    Arrays,
    check_finite,
    described,
    model_arrays,
    plain,
    renamed,
)
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.blas import Blas
from mlxmesh_engine.forward.dtype_policy import AS_SHIPPED, DtypeChoice, choose_dtype
from mlxmesh_engine.forward.loader import device_name
from mlxmesh_engine.scheduling.capacity import UNKNOWN_KV, KvMemory

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """An encoder that is ready to run, and its properties."""

    model: Callable[[TokenBatch, Progress], mx.array]
    head: Head
    kind: Kind
    dimensions: int
    vocab_size: int
    context_tokens: int
    device: str
    dtype: str
    dtype_note: str
    blas: Blas
    weights_bytes: int
    eos_token_ids: frozenset[int] = frozenset()
    kv: KvMemory = UNKNOWN_KV
    image_reader: None = None

    def encode(self, inputs: list[TokenInput], progress: Progress) -> NDArray[np.float32]:
        """The results (inputs, dimensions), or scores (inputs, 1)."""
        batch = TokenBatch.of(inputs)
        # In float32: a sum over tokens can exceed the range of float16.
        results = self.head(self.model(batch, progress).astype(mx.float32), batch)
        evaluate([results])
        return np.array(results, np.float32)


def load_encoder(
    model_dir: Path,
    *,
    kind: Kind,
    blas: Blas,
    dtype: str = "auto",
    context_tokens: int = 0,
    available_bytes: Callable[[], int],
) -> LoadedEncoder:
    """Raises: InvalidArgument, FeatureNotSupported, InsufficientMemory."""
    files = read_encoder(model_dir, kind, context_tokens)
    arrays = model_arrays(model_dir)
    device = device_name()
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    shipped = described(arrays, files.config)
    choice = choose_dtype(dtype, shipped, device=device, blas=blas, available_bytes=available_bytes)
    converted = _converted(plain(arrays, files.config), choice)
    check_finite(converted, model_dir.name)
    model, head, own = _build(files, converted)
    evaluate(own)
    return LoadedEncoder(
        model=model,
        head=head,
        kind=kind,
        dimensions=_dimensions(model, head) if kind == "embedding" else 0,
        vocab_size=files.vocab_size,
        context_tokens=files.context_tokens,
        device=device,
        dtype=choice.dtype,
        dtype_note=choice.note,
        blas=blas,
        weights_bytes=sum(array.nbytes for array in own),
    )


def _converted(arrays: Arrays, choice: DtypeChoice) -> Arrays:
    """The floating-point arrays in the chosen type."""
    dtype = _DTYPES.get(choice.dtype)
    if dtype is None or (not choice.convert and choice.dtype == AS_SHIPPED):
        return arrays
    return {
        name: array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array
        for name, array in arrays.items()
    }


def _build(
    files: EncoderFiles, arrays: Arrays
) -> tuple[BidirectionalModel | CausalModel, Head, list[mx.array]]:
    """The model, its head, and the arrays that both hold."""
    if files.causal:
        model = CausalModel(files.config, arrays)
        head = _causal_head(files, model)
        return model, head, [*model.arrays, *head.arrays]
    named = renamed(arrays, files.model_type)
    model = BidirectionalModel(files.config, named)
    if files.labels:
        named = {name: array.astype(mx.float32) for name, array in named.items()}
        head = ClassifierHead(files.model_type, named, files.labels)
    else:
        head = VectorHead(files, mx.float32)
    return model, head, [*model.arrays, *head.arrays]


def _causal_head(
    files: EncoderFiles, model: CausalModel
) -> AnswerHead | CausalClassifierHead | VectorHead:
    if files.answers is not None:
        return AnswerHead(model, files.answers)
    if files.labels:
        return CausalClassifierHead(model, files.labels)
    return VectorHead(files, mx.float32)


def _dimensions(model: Callable[[TokenBatch, Progress], mx.array], head: Head) -> int:
    """The length of the vectors, from one token."""
    batch = TokenBatch.of([TokenInput(np.zeros(1, np.int32))])
    return head(model(batch, lambda: None).astype(mx.float32), batch).shape[1]
