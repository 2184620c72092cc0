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
    "llama/l3-truncated-inside-parameters": CUT,
    "llama/l4-truncated-missing-close-bracket": CUT,
    "mistral/v13think-truncated-in-arguments": CUT,
    "qwen3-hermes/bug-sglang-30480-truncated-mid-arguments": CUT,
    "qwen3-hermes/truncated-mid-arguments-no-thinking": CUT,
    "qwen3-hermes/truncated-mid-arguments-thinking": CUT,
    "qwen3-hermes/truncated-second-parallel-call": CUT,
    "qwen3-hermes/vllm-invalid-json-missing-brace": CUT,
}
