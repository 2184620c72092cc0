"""Which formats the models of canitoolcall's fixtures have."""

from canitoolcall.fixtures import Fixture

# The beginning of a model's name, its format of tool calls and its format of reasoning.
_FORMATS = (
    ("deepseek-ai/DeepSeek-V3-0324", "deepseek_v3", "think"),
    ("deepseek-ai/DeepSeek-V3.1", "deepseek_v31", "think"),
    ("deepseek-ai/DeepSeek-V3.2", "deepseek_v32", "think"),
    ("deepseek-ai/DeepSeek-V4.1", "deepseek_v41", "think"),
    ("deepseek-ai/DeepSeek-V4", "deepseek_v4", "think"),
    ("google/gemma-4", "gemma4", "gemma4"),
    ("zai-org/GLM", "glm", "think"),
    ("openai/gpt-oss", "harmony", "harmony"),
    ("moonshotai/Kimi-K2", "kimi_k2", "think"),
    ("moonshotai/Kimi-K3", "kimi_k3", "kimi_k3"),
    ("meta-llama/Llama-3", "llama3_json", ""),
    ("meta-llama/Llama-4", "llama_pythonic", ""),
    ("mistralai/Magistral-Small-2506", "mistral", "think"),
    ("mistralai/Magistral", "mistral", "mistral"),
    ("mistralai/Ministral-3-14B-Reasoning", "mistral", "mistral"),
    ("mistralai/", "mistral", ""),
    ("Qwen/Qwen3-Coder", "qwen3_coder", ""),
    ("Qwen/Qwen3.", "qwen3_coder", "think"),
    ("Qwen/Qwen3", "hermes", "think"),
)


def formats_of(fixture: Fixture) -> tuple[str, str]:
    """The formats of a fixture's model; empty for none."""
    model = fixture.reference_model
    return next((tool, thinks) for prefix, tool, thinks in _FORMATS if model.startswith(prefix))
