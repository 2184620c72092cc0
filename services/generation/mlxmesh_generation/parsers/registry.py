"""The formats by name. Pure."""

from collections.abc import Mapping

from mlxmesh_generation.parsers.formats import ReasoningFormat, ToolFormat
from mlxmesh_generation.parsers.json_formats import COMMAND, GRANITE, HERMES, JSON, LLAMA3_JSON
from mlxmesh_generation.parsers.mistral_format import MISTRAL
from mlxmesh_generation.parsers.pythonic_format import LLAMA_PYTHONIC
from mlxmesh_generation.parsers.think import Think

_TOOL_FORMATS: tuple[ToolFormat, ...] = (
    HERMES,
    LLAMA3_JSON,
    LLAMA_PYTHONIC,
    MISTRAL,
    GRANITE,
    COMMAND,
    JSON,
)
_QWEN_CALLS = ("<tool_call>\n<function=",)
_REASONING_FORMATS: tuple[ReasoningFormat, ...] = (
    Think("think", "<think>", "</think>", calls=_QWEN_CALLS),
    Think("think_implicit", "<think>", "</think>", implicit=True, calls=_QWEN_CALLS),
    Think("mistral", "[THINK]", "[/THINK]"),
    Think("command", "<|START_THINKING|>", "<|END_THINKING|>"),
    Think("seed", "<seed:think>", "</seed:think>"),
)

TOOL_FORMATS: Mapping[str, ToolFormat] = {form.name: form for form in _TOOL_FORMATS}
REASONING_FORMATS: Mapping[str, ReasoningFormat] = {form.name: form for form in _REASONING_FORMATS}
