"""A tiny configuration of every architecture of mlx-lm 0.32.2, as config.json has it.

configs.json says what is common, since mlx-lm ignores what an architecture does not know, then what
each adds, and what the text model of a multimodal one adds.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any, cast

VOCAB_SIZE = 128

_TABLE: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())
# Cannot be made of random weights, each with the reason.
NOT_TRIED = {
    "phi3small": "mlx-lm's scores depend on how its prompt is cut into slices",
    "prism_hadamard_qwen35": "its weights only come as packs of 2 bits",
}


def config_of(architecture: str, **changes: Any) -> dict[str, Any]:
    """Its configuration; `changes` go to the text model of a multimodal one as well."""
    common = {**_TABLE["common"], "model_type": architecture}
    config = {**common, **_TABLE["architectures"].get(architecture, {}), **changes}
    if (text := _TABLE["text_configs"].get(architecture)) is not None:
        config["text_config"] = {**common, **text, **changes}
    return config


def architectures() -> list[str]:
    """Every module of mlx_lm.models that is a model, whether there is a configuration or not."""
    folder = Path(cast("str", import_module("mlx_lm.models.cache").__file__)).parent
    sources = {file.stem: file.read_text() for file in folder.glob("*.py")}
    return sorted(
        name
        for name, source in sources.items()
        if "class ModelArgs" in source and ("class Model(" in source or "import Model\n" in source)
    )
