"""The names that OpenAI's requests have for fields of the contract. Pure.

Paths of the contract have the numbers of elements in brackets, those of requests after a point, so
a path that is OpenAI's already stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Names = Callable[[str], str]
_Rule = tuple[re.Pattern[str], str]


def _rules(*pairs: tuple[str, str]) -> Sequence[_Rule]:
    return [(re.compile(pattern), name) for pattern, name in pairs]


_EVERYWHERE = _rules(
    (r"^(generation\.)?(sampling\.)?", ""),
    (r"^choice\.texts(?![A-Za-z_])", "choice"),
    (r"^(choice|stop|stop_token_ids)\[(\d+)\]", r"\1.\2"),
)
_CHAT = _rules(
    (r"^chat\.(?=messages)", ""),
    (r"^(messages)\[(\d+)\]", r"\1.\2"),
    (r"^(messages\.\d+\.tool_calls)\[(\d+)\]", r"\1.\2"),
    (r"^(messages\.\d+\.tool_calls\.\d+)\.(name|arguments)\b", r"\1.function.\2"),
    (r"^(messages\.\d+)\.reasoning_text\b", r"\1.reasoning_content"),
    (r"^(messages\.\d+)\.tool_name\b", r"\1.name"),
    (r"^json_schema\b", "response_format.json_schema.schema"),
    (r"^json_object\b", "response_format"),
    (r"^tools\[(\d+)\]\.parameters_json_schema\b", r"tools.\1.function.parameters"),
    (r"^tools\[(\d+)\]\.", r"tools.\1.function."),
    (r"^tools\[(\d+)\]", r"tools.\1"),
    (r"^tool_choice\.mode\b", "tool_choice"),
    (r"^tool_choice\.name\b", "tool_choice.function.name"),
    (r"^logprobs\.top\b", "top_logprobs"),
    (r"^reasoning(\.enabled|\.effort)?$", "reasoning_effort"),
)
_COMPLETION = _rules(
    (r"^tokens(\.token_ids)?(?![A-Za-z_])", "prompt"),
    (r"^logprobs\.(top|prompt)\b", "logprobs"),
)
_RESPONSE = _rules(
    (r"^chat\b.*", "input"),
    (r"^max_tokens\b", "max_output_tokens"),
    (r"^json_schema\b", "text.format.schema"),
    (r"^json_object\b", "text.format"),
    (r"^tools\[(\d+)\]\.parameters_json_schema\b", r"tools.\1.parameters"),
    (r"^tools\[(\d+)\]", r"tools.\1"),
    (r"^tool_choice\.mode\b", "tool_choice"),
    (r"^logprobs\.top\b", "top_logprobs"),
    (r"^reasoning\.enabled\b", "reasoning.effort"),
)

_EMBEDDING = _rules(
    (r"^inputs\[(\d+)\](\.(text|tokens(\.token_ids)?|input)(?![a-z_]))?", r"input.\1"),
    (r"^inputs(?![a-z_])", "input"),
    (r"^documents\[(\d+)\]", r"documents.\1"),
)

_BATCH = _rules(
    (r"^batch\.", ""),
    (r"^job_id$", "batch_id"),
    (r"^after_(job|file)_id$", "after"),
)


def chat_name(field: str) -> str:
    """Of a chat's field."""
    return _renamed(field, _CHAT)


def completion_name(field: str) -> str:
    """Of a text completion's field."""
    return _renamed(field, _COMPLETION)


def response_name(field: str) -> str:
    """Of a response's field."""
    return _renamed(field, _RESPONSE)


def embedding_name(field: str) -> str:
    """Of a field of texts to embed, or of documents to order."""
    return _renamed(field, _EMBEDDING)


def batch_name(field: str) -> str:
    """Of a field of a batch or a file."""
    return _renamed(field, _BATCH)


def _renamed(field: str, rules: Sequence[_Rule]) -> str:
    for pattern, name in (*_EVERYWHERE, *rules):
        field = pattern.sub(name, field)
    return field
