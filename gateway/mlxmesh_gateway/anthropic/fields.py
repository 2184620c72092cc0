"""What Anthropic's API calls the fields of the contract. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PREFIX = re.compile(r"^(generation\.)?(sampling\.|chat\.(?=messages))?")
_END = r"(?![A-Za-z0-9_])"
_NAMES: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern + _END), name)
    for pattern, name in (
        (r"tools\[(\d+)\]\.parameters_json_schema", r"tools.\1.input_schema"),
        (r"tools\[(\d+)\]", r"tools.\1"),
        (r"tool_choice\.mode", "tool_choice.type"),
        (r"parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
        (r"reasoning\.budget_tokens", "thinking.budget_tokens"),
        (r"reasoning\.effort", "output_config.effort"),
        (r"reasoning(\.enabled)?", "thinking.type"),
        (r"json_schema", "output_config.format.schema"),
        (r"stop", "stop_sequences"),
    )
]


def anthropic_field(field: str) -> str:
    """The name of a field of the contract; a name that Anthropic's API has stays as it is."""
    field = _PREFIX.sub("", field)
    for pattern, name in _NAMES:
        if match := pattern.match(field):
            return match.expand(name) + field[match.end() :]
    return field


def renamed(message: str, field: str) -> str:
    """The message of an error, which begins with the field where it names one."""
    if not field or not message.startswith(field):
        return message
    return anthropic_field(field) + message[len(field) :]
