"""The fixtures of canitoolcall that we do not pass, and why."""

from collections.abc import Mapping

CUT = (
    "The output ends inside a call. We send arguments while they are written, so the beginning of "
    "the call was sent before; `FINISH_REASON_LENGTH` says that it is cut. The suite wants no call."
)
BROKEN = (
    "The arguments are not JSON. We sent them while they were written, and they stay as written. "
    "The suite wants no call."
)

DEVIATIONS: Mapping[str, str] = {
    "deepseek/v3-truncated-mid-arguments": CUT,
    "deepseek/v31-truncated-mid-arguments": CUT,
    "deepseek/v32-truncated-mid-arguments": CUT,
    "deepseek/v32-truncated-second-parallel-call": CUT,
    "deepseek/v4-truncated-mid-arguments": CUT,
    "deepseek/v4-truncated-second-parallel-call": CUT,
    "deepseek/v41-truncated-mid-arguments": CUT,
    "deepseek/v41-truncated-second-parallel-call": CUT,
    "deepseek/vllm-v3-malformed-missing-brace": BROKEN,
    "gemma4/truncated-before-close": CUT,
    "gemma4/truncated-mid-string": CUT,
    "gemma4/truncated-second-parallel-call": CUT,
    "glm/glm45-truncated-after-arg-key": CUT,
    "glm/glm47-truncated-before-close-call": CUT,
    "glm/glm47-truncated-inside-arg-value": CUT,
    "gpt-oss/harmony-truncated-in-arguments": CUT,
    "kimi/k26-truncated-inside-arguments": CUT,
    "llama/l3-truncated-inside-parameters": CUT,
    "llama/l4-truncated-missing-close-bracket": CUT,
    "mistral/v13think-truncated-in-arguments": CUT,
    "qwen3-hermes/bug-sglang-30480-truncated-mid-arguments": CUT,
    "qwen3-hermes/truncated-mid-arguments-no-thinking": CUT,
    "qwen3-hermes/truncated-mid-arguments-thinking": CUT,
    "qwen3-hermes/truncated-second-parallel-call": CUT,
    "qwen3-hermes/vllm-invalid-json-missing-brace": CUT,
    "qwen3-xml/q38-truncated-in-parameter": CUT,
}
