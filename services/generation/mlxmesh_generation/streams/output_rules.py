"""What a request means for its model's output: template, parser and constraint. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mlxmesh_generation.domain.request import (
    Chat,
    GenerationRequest,
    OutputConstraint,
    Reasoning,
    ToolMode,
    Tools,
)
from mlxmesh_generation.parsers.choose import Choice, OutputFormat
from mlxmesh_generation.parsers.formats import ReasoningFormat, TokenId, ToolFormat
from mlxmesh_generation.parsers.parts import OutputParser, Reading
from mlxmesh_generation.parsers.plain import PlainText
from mlxmesh_generation.placement.sequence import EngineConstraint
from mlxmesh_shared.errors import FeatureNotSupported, IllegalState

_GRAMMARS = {"json_schema": "json_schema", "regex": "regex", "grammar": "lark", "choice": "choices"}
# Formats whose grammar of calls begins with the reasoning.
_ONE_FORMAT = ("harmony",)
_TOOLS_FIELD = "tools"
_ANY_OBJECT = '{"type": "object"}'
_Format = TypeVar("_Format")


@dataclass(frozen=True)
class ModelFormat:
    """How a model's output is read, with the formats themselves."""

    model: str
    """As in messages: name@version."""
    chosen: OutputFormat
    tools: ToolFormat | None
    reasoning: ReasoningFormat | None


def known_format(
    choice: Choice, formats: Mapping[str, _Format], field: str, model: str
) -> _Format | None:
    """The format that was chosen; `field` is the name of its setting.

    Raises: IllegalState for a setting that names no format.
    """
    if not choice.name:
        return None
    if choice.name not in formats:
        raise IllegalState(
            f"the {field} of {model} is set to {choice.name}, which is none of "
            f"{', '.join(sorted(formats))} and none; change it with `mlxmesh models set`",
            field="model",
        )
    return formats[choice.name]


# Before the template runs.


def checked(request: GenerationRequest, chat: Chat, model: ModelFormat) -> Chat:
    """The conversation as its template gets it: with reasoning switched off where an answer of a
    certain shape does not want it.

    Raises: FeatureNotSupported for what the model cannot do.
    """
    check_chat(chat, model)
    asked = chat.reasoning
    wants_reasoning = asked.enabled or asked.effort or asked.budget_tokens is not None
    if asked.enabled is None and not wants_reasoning and _has_shape(request, chat):
        off = False if model.chosen.switch is not None else None
        return replace(chat, reasoning=replace(asked, enabled=off))
    return chat


def check_chat(chat: Chat, model: ModelFormat) -> None:
    """Raises: FeatureNotSupported for tools or reasoning that the model cannot do."""
    if chat.tools is not None:
        _check_tools(chat.tools, model)
    _check_reasoning(chat.reasoning, model, may_call=_may_call(chat.tools))


def template_variables(reasoning: Reasoning, chosen: OutputFormat) -> dict[str, Any]:
    """What a template gets beside the conversation: only variables that it reads."""
    variables: dict[str, Any] = {}
    if chosen.effort and reasoning.effort:
        minimal = reasoning.effort == "minimal" and "minimal" not in chosen.efforts
        variables[chosen.effort] = "low" if minimal else reasoning.effort
    if chosen.budget and reasoning.budget_tokens is not None:
        variables[chosen.budget] = reasoning.budget_tokens
    switch = chosen.switch
    if switch is not None and reasoning.enabled is not None:
        value = switch.on if reasoning.enabled else switch.off
        # An effort or a budget of the caller's switches it on too.
        if value is not None and (not reasoning.enabled or switch.variable not in variables):
            variables[switch.variable] = value
    return variables


def _check_tools(tools: Tools, model: ModelFormat) -> None:
    if not model.chosen.takes_tools:
        raise FeatureNotSupported(
            f"tools: the chat template of {model.model} ignores tools; use another model",
            field="tools",
        )
    if tools.mode is not ToolMode.NONE and model.tools is None:
        raise FeatureNotSupported(
            f"tools: it is not known how {model.model} writes tool calls, because "
            f"{model.chosen.tools.reason}; set its format with `mlxmesh models set`",
            field="tools",
        )


def _check_reasoning(asked: Reasoning, model: ModelFormat, *, may_call: bool) -> None:
    known, switch = model.reasoning is not None, model.chosen.switch
    if asked.enabled and not known and switch is None:
        raise FeatureNotSupported(
            f"reasoning.enabled: {model.model} does not reason, as far as is known: "
            f"{model.chosen.reasoning.reason}; leave it unset, or set the model's format with "
            "`mlxmesh models set`",
            field="reasoning.enabled",
        )
    if asked.enabled is False and known and switch is None:
        raise FeatureNotSupported(
            f"reasoning.enabled: the chat template of {model.model} cannot switch reasoning off; "
            "leave it unset",
            field="reasoning.enabled",
        )
    if asked.budget_tokens is not None and may_call and _is_one_format(model):
        raise FeatureNotSupported(
            f"reasoning.budget_tokens: in the format {model.chosen.reasoning.name} of "
            f"{model.model}, reasoning cannot be limited beside tools; leave one of them out",
            field="reasoning.budget_tokens",
        )
    if asked.budget_tokens is not None and not known:
        raise FeatureNotSupported(
            f"reasoning.budget_tokens: it is not known how {model.model} marks reasoning, because "
            f"{model.chosen.reasoning.reason}; leave it unset, or set the model's format with "
            "`mlxmesh models set`",
            field="reasoning.budget_tokens",
        )


def _has_shape(request: GenerationRequest, chat: Chat) -> bool:
    """Whether the output is constrained, or the tool choice is another than auto."""
    chosen = chat.tools is not None and (chat.tools.mode is not ToolMode.AUTO or chat.tools.only)
    return request.constraint is not None or bool(chosen)


# After the template has run.


def reading(chat: Chat, model: ModelFormat, prompt: str) -> Reading | None:
    """How the outputs are taken apart, for a rendered prompt; None if they are text only."""
    tools = () if chat.tools is None else chat.tools.callable
    tool_format = model.tools if _may_call(chat.tools) else None
    reasoning = model.reasoning
    if reasoning is None:
        if tool_format is None:
            return None
        markers = tool_format.markers
        return Reading(lambda: tool_format.parser(tools), markers, markers)
    is_open = reasoning.is_open(prompt)

    def new_parser() -> OutputParser:
        answer = PlainText() if tool_format is None else tool_format.parser(tools)
        return reasoning.parser(answer, is_open=is_open)

    of_tools = frozenset[str]() if tool_format is None else tool_format.markers
    return Reading(new_parser, reasoning.markers | of_tools, of_tools - reasoning.markers)


def is_undecided(chat: Chat, model: ModelFormat, prompt: str) -> bool:
    """Whether only the template knows if reasoning precedes an answer that is constrained."""
    asked, form = chat.reasoning, model.reasoning
    if form is None or asked.enabled is not None or model.chosen.switch is None:
        return False
    needed = asked.budget_tokens is not None or (
        chat.tools is not None and model.tools is not None and chat.tools.enforced
    )
    return needed and not form.is_open(prompt) and not _is_closed(form, prompt)


def plain_constraint(constraint: OutputConstraint | None) -> EngineConstraint | None:
    """The caller's constraint, of an output without reasoning."""
    if constraint is None:
        return None
    if constraint.field == "json_object":
        return EngineConstraint("json_schema", _ANY_OBJECT, field=constraint.field)
    return EngineConstraint(_GRAMMARS[constraint.field], constraint.text, field=constraint.field)


def chat_constraint(
    request: GenerationRequest,
    chat: Chat,
    model: ModelFormat,
    prompt: str,
    *,
    token_id: TokenId,
    encode: Callable[[str], Sequence[int]],
) -> EngineConstraint | None:
    """What the engine enforces on the answer to a rendered prompt; `encode` makes its tokens.

    Raises: FeatureNotSupported if the format of tool calls has no grammar.
    """
    constraint = plain_constraint(request.constraint)
    if _may_call(chat.tools) and chat.tools is not None and model.tools is not None:
        constraint = _tool_constraint(chat.tools, model.tools, token_id) or constraint
    budget, reasoning = chat.reasoning.budget_tokens, model.reasoning
    if constraint is not None and constraint.field == _TOOLS_FIELD and _is_one_format(model):
        return constraint  # its grammar begins with the reasoning
    has_switch = model.chosen.switch is not None
    if reasoning is None or not _reasons(chat.reasoning, reasoning, prompt, has_switch=has_switch):
        return constraint
    if constraint is None and budget is None:
        return None
    return replace(
        constraint or EngineConstraint(field="reasoning.budget_tokens"),
        prefix_end_token_ids=tuple(encode(reasoning.end)),
        prefix_max_tokens=budget,
    )


def _tool_constraint(tools: Tools, form: ToolFormat, token_id: TokenId) -> EngineConstraint | None:
    """The grammar of the format where it is needed: else a model that is left alone does better."""
    if not tools.enforced:
        return None
    required = tools.mode is ToolMode.REQUIRED
    grammar = form.grammar(
        tools.callable, required=required, parallel=tools.parallel, token_id=token_id
    )
    return EngineConstraint("lark", grammar, field=_TOOLS_FIELD)


def _reasons(
    asked: Reasoning, reasoning: ReasoningFormat, prompt: str, *, has_switch: bool
) -> bool:
    """Whether reasoning comes before the answer."""
    if reasoning.is_open(prompt):
        return True
    if _is_closed(reasoning, prompt):
        return False
    # The model opens it by itself.
    asked_for = asked.enabled is None and asked.budget_tokens is not None
    return asked.enabled is True or (asked_for and not has_switch)


def _is_closed(reasoning: ReasoningFormat, prompt: str) -> bool:
    """Whether the template wrote that there is no reasoning."""
    return prompt.rstrip().endswith(reasoning.end)


def _may_call(tools: Tools | None) -> bool:
    return tools is not None and tools.mode is not ToolMode.NONE


def _is_one_format(model: ModelFormat) -> bool:
    """Whether reasoning and calls are parts of one format."""
    tools, reasoning = model.tools, model.reasoning
    if tools is None or reasoning is None or tools.name != reasoning.name:
        return False
    return tools.name in _ONE_FORMAT
