"""Divides a model among the ranks of a group, by mlx-lm's own method: a part of every layer each,
unless `pipeline` divides it.

Only for architectures whose scores were compared with those of the whole model, by
`tests/matrix/group_architectures.py`: a division that is wrong gives no error.
"""

from collections.abc import Mapping
from typing import Any, cast

from mlx import nn

from mlxmesh_engine.groups import pipeline
from mlxmesh_engine.groups.ring import Ring
from mlxmesh_engine.groups.structure import structure
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.settings.sections.services import MAX_GROUP_SIZE

EXACT = frozenset(
    {
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "deepseek_v41",
        "exaone_moe",
        "glm4_moe",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "gpt_oss",
        "iquestloopcoder",
        "kimi_k25",
        "kimi_k3",
        "llama",
        "longcat_flash",
        "longcat_flash_ngram",
        "minimax",
        "minimax_m3_vl",
        "ministral3",
        "mistral4",
        "qwen2",
        "qwen3",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_moe",
        "solar_open",
        "step3p5",
    }
)
"""Modules of mlx-lm 0.32.2."""

_HEADS = {
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "heads of keys and values",
}

_Counts = Mapping[tuple[int, str], int]
"""By the module's identity and the attribute's name."""


def architecture(model: nn.Module) -> str:
    """The module of mlx-lm that the model is from."""
    return type(model).__module__.rpartition(".")[2]


def choose_split(model: nn.Module, wanted: str) -> str:
    """How to divide the model: tensor or pipeline. wanted: one of them, or auto.

    Raises: FeatureNotSupported if it is not known that dividing the model this way is exact.
    """
    name = architecture(model)
    known = [
        *(["tensor"] if name in EXACT and can_divide(model) else []),
        *(["pipeline"] if name in pipeline.EXACT and pipeline.can_pipeline(model) else []),
    ]
    if not known:
        raise FeatureNotSupported(
            f"groups do not support the architecture {name}; set group_size to 1",
            field="group_size",
        )
    if wanted not in ("auto", *known):
        raise FeatureNotSupported(
            f"groups do not support group_split {wanted} for the architecture {name}; set it to"
            f" {known[0]}",
            field="group_split",
        )
    return known[0] if wanted == "auto" else wanted


def can_divide(model: nn.Module) -> bool:
    """Whether mlx-lm has a method for it."""
    return hasattr(model, "shard")


def divide(model: nn.Module, ring: Ring) -> None:
    """Keeps this rank's part of the model.

    Nothing is evaluated, so the parts of other ranks are never in memory.
    Raises: InvalidArgument if the model's sizes cannot be divided.
    """
    whole, size = structure(model), cast("int", ring.size())
    if why := _shard(model, ring):
        raise InvalidArgument(
            f"this {architecture(model)} model cannot be divided among {size} ranks with tensor: "
            f"{_odd_heads(whole, size) or why}; {_instead(whole, size)}",
            field="group_size",
        )


def possible_sizes(model: nn.Module) -> list[int]:
    """The numbers of ranks among which the model can be divided; it remains whole."""
    return [
        size
        for size in range(2, MAX_GROUP_SIZE + 1)
        if not _shard(structure(model), _FirstOf(size))
    ]


class _FirstOf:
    """A ring as its rank 0 sees it before anything is computed."""

    def __init__(self, size: int) -> None:
        self._size = size

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return 0


def _shard(model: nn.Module, ring: Ring) -> str:
    """Divides the model; if that is impossible, returns why, and leaves it half divided."""
    before = _counts(model)
    try:
        cast("Any", model).shard(ring)
    # A model may raise anything.
    except Exception as error:  # noqa: BLE001
        return str(error).rstrip(".") or type(error).__name__
    return _remainder(before, _counts(model), ring.size())


def _counts(model: nn.Module) -> _Counts:
    """Every number that a module has as an attribute: heads, for example."""
    modules = cast("list[tuple[str, Any]]", cast("Any", model).named_modules())
    return {
        (id(module), name): value
        for _, module in modules
        for name, value in cast("dict[str, object]", vars(module)).items()
        if isinstance(value, int) and not isinstance(value, bool)
    }


def _remainder(before: _Counts, after: _Counts, size: int) -> str:
    """What cannot be divided; mlx-lm divides the number of heads without a check."""
    for key, count in after.items():
        old = before.get(key, count)
        if count != old and count * size != old:
            return f"{key[1]} is {old}"
    return ""


def _odd_heads(model: nn.Module, size: int) -> str:
    """The heads that cannot be divided, which say more than the sizes that depend on them."""
    args = getattr(model, "args", None)
    for name, what in _HEADS.items():
        count = getattr(args, name, None)
        if isinstance(count, int) and count % size:
            return f"it has {count} {what}"
    return ""


def _instead(whole: nn.Module, size: int) -> str:
    """What would work."""
    ways: list[str] = []
    if sizes := [str(each) for each in possible_sizes(whole)]:
        *others, last = sizes
        ways.append(f"--group {', '.join(others)} or {last}" if others else f"--group {last}")
    exact = architecture(whole) in pipeline.EXACT and pipeline.can_pipeline(whole)
    layers = pipeline.layers_of(whole) if exact else 0
    if layers >= size:
        ways.append("--group-split pipeline")
    elif layers > 1:
        ways.append(f"--group {layers} or less with --group-split pipeline")
    return f"use {', or '.join(ways)}" if ways else "set --group 1"
