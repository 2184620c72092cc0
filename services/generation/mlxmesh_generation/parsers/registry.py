"""The formats by name. Pure."""

from collections.abc import Mapping

from mlxmesh_generation.parsers.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from mlxmesh_generation.parsers.dsml import DEEPSEEK_V4, DEEPSEEK_V32, DEEPSEEK_V41
from mlxmesh_generation.parsers.formats import ReasoningFormat, ToolFormat
from mlxmesh_generation.parsers.gemma4 import GEMMA4, GEMMA4_THOUGHTS
from mlxmesh_generation.parsers.glm import GLM
from mlxmesh_generation.parsers.harmony import HARMONY, HARMONY_REASONING
from mlxmesh_generation.parsers.json_formats import COMMAND, GRANITE, HERMES, JSON, LLAMA3_JSON
from mlxmesh_generation.parsers.kimi_k2 import KIMI_K2
from mlxmesh_generation.parsers.minimax import MINIMAX
from mlxmesh_generation.parsers.mistral_format import MISTRAL
from mlxmesh_generation.parsers.pythonic_format import LLAMA_PYTHONIC
from mlxmesh_generation.parsers.qwen3_coder import QWEN3_CODER
from mlxmesh_generation.parsers.think import Think

_TOOL_FORMATS: tuple[ToolFormat, ...] = (
    HERMES,
    LLAMA3_JSON,
    LLAMA_PYTHONIC,
    MISTRAL,
    GRANITE,
    COMMAND,
    JSON,
    QWEN3_CODER,
    GLM,
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    DEEPSEEK_V32,
    DEEPSEEK_V4,
    DEEPSEEK_V41,
    KIMI_K2,
    MINIMAX,
    GEMMA4,
    HARMONY,
)
_QWEN_CALLS = ("<tool_call>\n<function=",)
_REASONING_FORMATS: tuple[ReasoningFormat, ...] = (
    Think("think", "<think>", "</think>", calls=_QWEN_CALLS),
    Think("think_implicit", "<think>", "</think>", implicit=True, calls=_QWEN_CALLS),
    Think("mistral", "[THINK]", "[/THINK]"),
    Think("command", "<|START_THINKING|>", "<|END_THINKING|>"),
    Think("seed", "<seed:think>", "</seed:think>"),
    GEMMA4_THOUGHTS,
    HARMONY_REASONING,
)

TOOL_FORMATS: Mapping[str, ToolFormat] = {form.name: form for form in _TOOL_FORMATS}
REASONING_FORMATS: Mapping[str, ReasoningFormat] = {form.name: form for form in _REASONING_FORMATS}
