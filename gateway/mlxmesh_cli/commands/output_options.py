"""Options for the shape of outputs: constraints, tools, reasoning, log-probabilities, how many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from mlxmesh_cli.commands.failures import fail

_MODES = ("auto", "none", "required")
_CONSTRAINTS = ("json_schema", "json_object", "regex", "grammar", "choice")

JsonSchema = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|JSON",
        help="JSON Schema that the output satisfies: a file, or the schema itself.",
    ),
]
JsonObject = Annotated[bool, typer.Option("--json-object", help="Any JSON object.")]
Regex = Annotated[
    str | None,
    typer.Option(help="Regular expression that the whole output matches, in Rust's syntax."),
]
Grammar = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Lark grammar that the output follows, with a rule `start`."),
]
Choice = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Text that the output may equal; repeat it."),
]
Outputs = Annotated[
    int,
    typer.Option(
        "-n", min=1, max=32, help="Number of outputs; equal ones unless --temperature is above 0."
    ),
]
Logprobs = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=20,
        help="Show each token's log-probability, and this many of the likeliest tokens.",
    ),
]
PromptLogprobs = Annotated[
    bool,
    typer.Option("--prompt-logprobs", help="Show log-probabilities of the prompt's tokens too."),
]
Tool = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="JSON file with a tool, or a list of tools, that the model may call; may be repeated."
        ' A tool is {"name": "add", "description": "...", "parameters": SCHEMA}.',
    ),
]
ToolChoice = Annotated[
    str | None,
    typer.Option(
        metavar="auto|none|required|NAME",
        help="Whether, or which, tools the model must call.  [default: auto]",
    ),
]
ParallelTools = Annotated[
    bool | None,
    typer.Option(
        "--parallel-tool-calls/--no-parallel-tool-calls",
        help="Whether one output may call several tools.  [default: yes]",
    ),
]
Reasoning = Annotated[
    bool | None,
    typer.Option(
        "--reasoning/--no-reasoning",
        help="Whether the model reasons before it answers.  [default: as its template does]",
    ),
]
Effort = Annotated[
    str | None,
    typer.Option(
        "--reasoning-effort",
        metavar="minimal|low|medium|high",
        help="How much the model should reason, for templates that take it.",
    ),
]
Budget = Annotated[
    int | None,
    typer.Option(
        "--reasoning-budget", min=1, max=1_000_000, help="Maximum number of tokens of reasoning."
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="LoRA adapter of the model.  [default: none]"),
]
Session = Annotated[
    str | None,
    typer.Option(
        "--session", help="Session id: its requests go to one replica, unless that is busy."
    ),
]
Flex = Annotated[
    bool,
    typer.Option("--flex", help="Run with what other requests leave, at half the price."),
]
Label = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE", help="Label for the generation's telemetry; may be repeated."
    ),
]


def reasoning_options(
    reasoning: bool | None, effort: str | None, budget: int | None
) -> dict[str, Any]:
    """The options of reasoning that were given."""
    if effort is not None and effort not in ("minimal", "low", "medium", "high"):
        fail("--reasoning-effort must be minimal, low, medium or high")
    given = {
        "reasoning": reasoning,
        "reasoning_effort": effort,
        "reasoning_budget": budget,
    }
    return {name: value for name, value in given.items() if value is not None}


def constraint_options(
    json_schema: str | None,
    json_object: bool,
    regex: str | None,
    grammar: Path | None,
    choice: list[str] | None,
) -> dict[str, Any]:
    """The constraint that was given, if any; several are a mistake."""
    values = (json_schema, json_object, regex, grammar, choice)
    given = {
        name: value
        for name, value in zip(_CONSTRAINTS, values, strict=True)
        if value is not None and value is not False
    }
    if len(given) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        fail(f"{names} exclude each other; give one of them")
    if json_schema is not None:
        given["json_schema"] = _schema(json_schema)
    if grammar is not None:
        given["grammar"] = _text(grammar)
    return given


def tool_options(
    files: Sequence[Path] | None, choice: str | None, parallel: bool | None
) -> dict[str, Any]:
    """The options of tools that were given."""
    tools = [tool for file in files or () for tool in _tools(file)]
    if not tools and (choice is not None or parallel is not None):
        fail("--tool-choice and --parallel-tool-calls need tools; add --tool FILE")
    given: dict[str, Any] = {"tools": tools} if tools else {}
    if choice is not None:
        given["tool_choice"] = choice if choice in _MODES else _named(choice, tools)
    if parallel is not None:
        given["parallel_tool_calls"] = parallel
    return given


def other_options(
    outputs: int,
    logprobs: int | None,
    prompt_logprobs: bool,
    adapter: str | None,
    session: str | None,
    flex: bool,
    labels: Sequence[str] | None,
) -> dict[str, Any]:
    """The other options that were given."""
    given: dict[str, Any] = {"n": outputs} if outputs != 1 else {}
    if logprobs is not None:
        given["logprobs"] = logprobs
    if prompt_logprobs:
        given["prompt_logprobs"] = True
    if adapter is not None:
        given["adapter"] = adapter
    if session is not None:
        given["session_id"] = session
    if flex:
        given["service_tier"] = "flex"
    if labels:
        given["labels"] = _labels(labels)
    return given


def _named(name: str, tools: Sequence[dict[str, Any]]) -> dict[str, str]:
    names = [_function(tool).get("name") for tool in tools]
    if name not in names:
        known = ", ".join(str(one) for one in names)
        fail(f"--tool-choice must be auto, none, required or one of the tools: {known}")
    return {"name": name}


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """The tool itself; OpenAI's API wraps it."""
    inner = tool.get("function")
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else tool


def _tools(file: Path) -> list[dict[str, Any]]:
    value = _json(_text(file), f"--tool: {file}")
    tools = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not all(isinstance(tool, dict) for tool in tools):
        fail(f"--tool: {file} must be an object or a list of objects")
    if not tools:
        fail(f"--tool: {file} has no tools")
    return cast("list[dict[str, Any]]", tools)


def _schema(given: str) -> str:
    """The text of a schema that is given itself or as a file."""
    if not given:
        fail("--json-schema must be a file or a JSON object")
    if given.lstrip().startswith("{"):
        text, name = given, "the schema"
    else:
        text, name = _text(Path(given)), given
    if not isinstance(_json(text, f"--json-schema: {name}"), dict):
        fail(f"--json-schema: {name} must be a JSON object")
    return text


def _json(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        fail(f"{name} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}")
    except RecursionError:
        fail(f"{name} is nested too deeply")


def _text(file: Path) -> str:
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{file}: {error.strerror}", reason="FILE_ERROR")
    except UnicodeDecodeError:
        fail(f"{file} is not UTF-8", reason="FILE_ERROR")


def _labels(given: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for label in given:
        key, separator, value = label.partition("=")
        if not (key and separator):
            fail("--label must be KEY=VALUE, for example --label team=blue")
        if key in labels:
            fail(f"--label {key} is given twice")
        labels[key] = value
    return labels
