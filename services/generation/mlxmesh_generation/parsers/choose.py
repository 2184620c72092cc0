"""Chooses how a model's output is read, from its chat template and its tokens. Pure."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mlxmesh_generation.text import template_source

NONE = "none"
"""The setting that switches a format off."""


@dataclass(frozen=True)
class Choice:
    """A format, by its name in the registry, and why it was chosen."""

    name: str
    """Empty for none."""
    reason: str
    """One sentence without its full stop."""


@dataclass(frozen=True)
class ReasoningSwitch:
    """The variable of a chat template that switches reasoning, and its values."""

    variable: str
    on: Any = True
    """None when the variable must be unset."""
    off: Any = False


@dataclass(frozen=True)
class OutputFormat:
    """How a model's output is read, and what its template can be told."""

    tools: Choice
    reasoning: Choice
    takes_tools: bool = False
    """Whether the template shows tools to the model."""
    switch: ReasoningSwitch | None = None
    effort: str = ""
    """The template's variable for the effort of reasoning; empty for none."""
    efforts: frozenset[str] = frozenset()
    """The efforts that the template mentions."""
    budget: str = ""
    """The template's variable for the most tokens of reasoning; empty for none."""


@dataclass(frozen=True)
class _Rule:
    """A format, and the texts that its templates contain, all of them."""

    name: str
    texts: tuple[str, ...]
    tokens: bool = False
    """Whether tokens with these texts are enough, where the template does not contain them."""


# The first rule that fits wins, so a more specific one comes before a more general one.
TOOL_RULES = (
    _Rule("harmony", ("<|channel|>", "<|message|>"), tokens=True),
    _Rule("kimi_k2", ("<|tool_calls_section_begin|>",), tokens=True),
    _Rule("minimax", ("<minimax:tool_call>",), tokens=True),
    _Rule("deepseek_v32", ("｜DSML｜", "function_calls>")),
    _Rule("deepseek_v4", ("｜DSML｜", "tool_calls>")),
    _Rule("deepseek_v41", ("｜DSML｜", "calls>")),
    _Rule("deepseek_v3", ("<｜tool▁calls▁begin｜>", "```json")),
    _Rule("deepseek_v31", ("<｜tool▁calls▁begin｜>",), tokens=True),
    _Rule("glm", ("<tool_call>", "<arg_key>")),
    _Rule("qwen3_coder", ("<tool_call>", "<function=")),
    _Rule("gemma4", ("<|tool_call>",), tokens=True),
    _Rule("granite", ("<|tool_call|>",), tokens=True),
    _Rule("command", ("<|START_ACTION|>",), tokens=True),
    _Rule("hermes", ("<tool_call>",)),
    _Rule("mistral", ("[TOOL_CALLS]",), tokens=True),
    _Rule("llama_pythonic", ("[func_name1(",)),
    _Rule("llama3_json", ("<|python_tag|>",), tokens=True),
    _Rule("llama3_json", ("<|start_header_id|>", '"parameters": ')),
    # With the colon: a template that only reads message fields has the names too.
    _Rule("json", ('"name":', '"arguments":')),
    _Rule("json", ('"name":', '"parameters":')),
)
REASONING_RULES = (
    _Rule("harmony", ("<|channel|>", "<|message|>"), tokens=True),
    _Rule("gemma4", ("<|channel>", "<channel|>"), tokens=True),
    _Rule("mistral", ("[THINK]",)),
    _Rule("command", ("<|START_THINKING|>",)),
    _Rule("seed", ("<seed:think>",)),
    _Rule("think", ("<think>",)),
    _Rule("think", ("</think>",)),
)
_SWITCHES = ("enable_thinking", "thinking", "enable_reasoning")
_EFFORT = "reasoning_effort"
_EFFORTS = ("minimal", "low", "medium", "high")
_BUDGET = "thinking_budget"


@lru_cache(maxsize=256)
def choose(
    template: str | None,
    tokens: frozenset[str] = frozenset(),
    *,
    tool_setting: str = "",
    reasoning_setting: str = "",
) -> OutputFormat:
    """tokens: the texts of special and added tokens.

    A setting wins; whether there is a format of such a name is not checked here.
    """
    source = (template or "").replace('\\"', '"')
    takes_tools = template_source.reads_variable(source, "tools")
    if template is None:
        tools = reasoning = Choice("", "the model has no chat template")
    else:
        tools = _chosen(TOOL_RULES, source, tokens, "tool calls")
        reasoning = _chosen(REASONING_RULES, source, tokens, "reasoning")
        if not takes_tools:
            tools = Choice("", "the chat template takes no tools")
    return OutputFormat(
        tools=_set(tool_setting) or tools,
        reasoning=_set(reasoning_setting) or reasoning,
        takes_tools=takes_tools,
        switch=_switch(source),
        effort=_EFFORT if template_source.reads_variable(source, _EFFORT) else "",
        efforts=frozenset(word for word in _EFFORTS if template_source.has_literal(source, word)),
        budget=_BUDGET if template_source.reads_variable(source, _BUDGET) else "",
    )


def _set(setting: str) -> Choice | None:
    if setting == NONE:
        return Choice("", f"it is set to {NONE} for this model")
    return Choice(setting, "it is set for this model") if setting else None


def _chosen(rules: Sequence[_Rule], source: str, tokens: Collection[str], of: str) -> Choice:
    if rule := _first(rules, lambda rule: all(text in source for text in rule.texts)):
        return Choice(rule.name, f"the chat template contains {' and '.join(rule.texts)}")
    if rule := _first(rules, lambda rule: rule.tokens and set(rule.texts) <= set(tokens)):
        return Choice(rule.name, f"the vocabulary contains {' and '.join(rule.texts)}")
    return Choice("", f"the chat template contains no marks of {of} that are known")


def _first(rules: Sequence[_Rule], fits: Callable[[_Rule], bool]) -> _Rule | None:
    return next(filter(fits, rules), None)


def _switch(source: str) -> ReasoningSwitch | None:
    for variable in _SWITCHES:
        if template_source.reads_variable(source, variable):
            return ReasoningSwitch(variable)
    if template_source.reads_variable(source, _BUDGET):
        return ReasoningSwitch(_BUDGET, on=None, off=0)
    takes_none = template_source.has_literal(source, "none")
    if takes_none and template_source.reads_variable(source, _EFFORT):
        return ReasoningSwitch(_EFFORT, on="high", off="none")
    return None
