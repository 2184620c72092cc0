"""What fits and what is refused, from what a hub tells."""

import ast
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from huggingface_hub.hf_api import ModelInfo

from mlxmesh_model.gguf.architectures import ARCHITECTURES as CONVERTED
from mlxmesh_model.gguf.kinds import KINDS
from mlxmesh_model.hub import fit
from mlxmesh_model.hub.architectures import ARCHITECTURES, GGUF_ARCHITECTURES, GGUF_KINDS
from mlxmesh_model.hub.fit import Fit
from mlxmesh_model.hub.listing import ListedFile, Listing, parameters, weights_bytes
from mlxmesh_model.hub.model_info import listing_of
from mlxmesh_model.hub.speed import Speed
from mlxmesh_model.replicas.placement import OVERHEAD_BYTES, Runtime

ROOT = Path(__file__).resolve().parents[3]
GIB = 2**30
REMAPPING = "MODEL_REMAPPING"
SMALL = Runtime("small", GIB, {}, memory_limit_bytes=2 * GIB)
LARGE = Runtime("large", 2 * GIB, {}, memory_limit_bytes=16 * GIB)


def other_names() -> set[str]:
    """The names that mlx-lm knows for architectures of other names, read without importing it."""
    spec = find_spec("mlx_lm")
    assert spec is not None
    assert spec.submodule_search_locations
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / "utils.py").read_text())
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == REMAPPING:
            return set(ast.literal_eval(statement.value))
    raise AssertionError(f"mlx-lm has no {REMAPPING}")


def test_the_architectures_are_those_that_docs_models_md_lists() -> None:
    table = (ROOT / "docs/models.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \|", table, re.MULTILINE)
    served = {name for name, how in rows if "a package that is not installed" not in how}
    assert served | other_names() == ARCHITECTURES


def test_the_gguf_kinds_are_those_that_are_converted() -> None:
    assert CONVERTED.keys() == GGUF_ARCHITECTURES
    assert set(GGUF_KINDS) == {kind.name for kind in KINDS.values()}


@pytest.mark.parametrize(
    ("memory_bytes", "runtimes", "expected"),
    [
        (GIB, [SMALL], Fit.NOW),
        (GIB + 1, [SMALL], Fit.AFTER_UNLOADING),
        (2 * GIB, [SMALL, LARGE], Fit.NOW),
        (3 * GIB, [SMALL], Fit.NEVER),
        (3 * GIB, [SMALL, LARGE], Fit.AFTER_UNLOADING),
        (17 * GIB, [SMALL, LARGE], Fit.NEVER),
        (1, [], Fit.UNKNOWN),
        (1, [replace(SMALL, draining=True)], Fit.UNKNOWN),
        (1, [replace(SMALL, engines=None)], Fit.UNKNOWN),
    ],
)
def test_memory_decides(memory_bytes: int, runtimes: list[Runtime], expected: Fit) -> None:
    assert fit.verdict(memory_bytes, runtimes).fit is expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qwen3-0.6b-q8_0.gguf", "Q8_0"),
        ("model.Q4_K_M.gguf", "Q4_K_M"),
        ("model-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model-fp16.gguf", "F16"),
        ("model-BF16.gguf", "BF16"),
        ("ggml-model-f32.gguf", "F32"),
        ("model.gguf", ""),
    ],
)
def test_the_kind_of_a_gguf_file(name: str, kind: str) -> None:
    assert fit.gguf_kind(name) == kind


def test_what_a_repository_offers_the_best_first() -> None:
    names = ("model.safetensors", "config.json", "b-q8_0.gguf", "a-q2_k.gguf", "sub/c-q8_0.gguf")
    files = tuple(ListedFile(name, 1000) for name in names)
    listing = Listing("a/b", architecture="llama", gguf_architecture="llama", files=files)
    found = fit.choices(listing, [SMALL])
    assert [(each.file, each.size_bytes, each.verdict.fit) for each in found] == [
        ("", 2000, Fit.NOW),
        ("a-q2_k.gguf", 1000, Fit.REFUSED),
        ("b-q8_0.gguf", 1000, Fit.NOW),
        ("sub/c-q8_0.gguf", 1000, Fit.REFUSED),
    ]
    assert found[0].memory_bytes == 1000 + OVERHEAD_BYTES
    assert fit.best(found, listing).fit is Fit.NOW


def test_packed_weights_count_as_what_they_were() -> None:
    elements = {"BF16": 1000, "U32": 2000}
    assert weights_bytes(elements) == 10_000
    assert parameters(elements, 4) == 16_000
    assert parameters({"BF16": 1000}, 0) == 1000
    assert weights_bytes({"F128": 1}) == 0


def test_nonsense_of_a_hub_is_left_out() -> None:
    info = ModelInfo(
        id="a/b",
        config={"model_type": 7, "quantization_config": {"bits": "four"}},
        downloads=-1,
        likes=True,
        gguf=[],
        tags=["license:mit"],
    )
    listing = listing_of(info)
    assert (listing.architecture, listing.quantization, listing.downloads) == ("", "", 0)
    assert (listing.licence, listing.parameters, listing.files) == ("mit", 0, ())


def test_the_bits_are_read_from_the_name_at_last() -> None:
    assert listing_of(ModelInfo(id="a/Qwen3-4bit-DWQ")).quantization == "4-bit"
    assert listing_of(ModelInfo(id="a/Qwen3-16bit")).quantization == ""
    named = listing_of(ModelInfo(id="a/Qwen3-4bit", config={"quantization": {"bits": 6}}))
    assert named.quantization == "6-bit"


def test_the_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.sample(0.0, 0) == 0
    assert speed.sample(1.0, 100) == 100
    assert speed.sample(2.0, 100) == 50
    assert [speed.sample(second, 100) for second in (5.0, 9.0, 15.0)][-1] == 0
