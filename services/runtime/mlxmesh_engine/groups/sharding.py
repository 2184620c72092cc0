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
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

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
    before, size = _counts(model), cast("int", ring.size())
    try:
        cast("Any", model).shard(ring)
    # A model may raise anything.
    except Exception as error:
        raise _indivisible(model, size, str(error).rstrip(".")) from error
    if why := _remainder(before, _counts(model), size):
        raise _indivisible(model, size, why)


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


def _indivisible(model: nn.Module, size: int, why: str) -> InvalidArgument:
    instead = "; choose another group_size"
    if architecture(model) in pipeline.EXACT and pipeline.can_pipeline(model):
        instead += ", or group_split pipeline"
    return InvalidArgument(
        f"this model cannot be divided among {size} ranks: {why}{instead}", field="group_size"
    )
