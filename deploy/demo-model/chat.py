"""Turns examples into text and ids with the models' own chat template."""

import json
from pathlib import Path
from typing import Any

import jinja2
from examples import Example
from tokenizers import Tokenizer

TEMPLATE_PATH = Path(__file__).parent / "chat_template.jinja"
PAD, END = "<|pad|>", "<|end|>"
ASSISTANT = "<|assistant|>"
SPECIAL = (PAD, END, "<|system|>", "<|user|>", ASSISTANT, "<|tool|>")
VISIBLE = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def load_template() -> jinja2.Template:
    """Compile the chat template in the way transformers does."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - not HTML
    environment.filters["tojson"] = _to_json
    return environment.from_string(TEMPLATE_PATH.read_text())


class Renderer:
    """Renders examples and marks which tokens the assistant writes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._template = load_template()
        self._assistant = tokenizer.token_to_id(ASSISTANT)
        self._end = tokenizer.token_to_id(END)

    def prompt(self, example: Example) -> str:
        """Return the text before the answer, ready for generation."""
        return self._template.render(
            messages=example.prompt, tools=example.tools, add_generation_prompt=True
        )

    def text(self, example: Example) -> str:
        """Return the whole example, its end-of-turn token included."""
        if not example.messages:
            return example.text + END
        return self._template.render(messages=list(example.messages), tools=example.tools)

    def encode(self, example: Example, prompt_weight: float) -> tuple[list[int], list[float]]:
        """Return ids and one loss weight per id: 1 where the assistant writes."""
        ids: list[int] = self._tokenizer.encode(self.text(example)).ids
        writing = not example.messages
        weights: list[float] = []
        for token in ids:
            weights.append(1.0 if writing else prompt_weight)
            writing = token == self._assistant or (writing and token != self._end)
        return ids, weights
