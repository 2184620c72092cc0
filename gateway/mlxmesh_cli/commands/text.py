"""Commands that generate text: generate, attach, chat, tokens."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.generation_options import (
    MaxTokens,
    Model,
    Seed,
    Stop,
    System,
    Temperature,
    TopK,
    TopP,
    options_given,
)
from mlxmesh_cli.commands.output_options import (
    Adapter,
    Budget,
    Choice,
    Effort,
    Flex,
    Grammar,
    JsonObject,
    JsonSchema,
    Label,
    Logprobs,
    Outputs,
    ParallelTools,
    PromptLogprobs,
    Reasoning,
    Regex,
    Session,
    Tool,
    ToolChoice,
    constraint_options,
    other_options,
    reasoning_options,
    tool_options,
)
from mlxmesh_cli.commands.resuming import (
    position_of,
    told_how_to_read_all,
    told_how_to_resume,
)
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, gateway_address, run
from mlxmesh_cli.screen.output import print_json, say, to_dict

Prompt = Annotated[
    str | None, typer.Argument(help="Prompt; reads standard input if `-` or omitted.")
]
Raw = Annotated[bool, typer.Option("--raw", help="Do not apply the model's chat template.")]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        metavar="FILE",
        help="An image before the prompt, for models of the kind vision; may be repeated.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]
RequestId = Annotated[
    str | None, typer.Option(help="Request id, for `mlxmesh attach` and for safe retries.")
]
History = Annotated[
    bool,
    typer.Option(help="Save questions in ~/.local/state/mlxmesh as history for the arrow keys."),
]


def generate(
    prompt: Prompt = None,
    model: Model = None,
    raw: Raw = False,
    image: Images = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    stop: Stop = None,
    json_schema: JsonSchema = None,
    json_object: JsonObject = False,
    regex: Regex = None,
    grammar: Grammar = None,
    choice: Choice = None,
    outputs: Outputs = 1,
    logprobs: Logprobs = None,
    prompt_logprobs: PromptLogprobs = False,
    tool: Tool = None,
    tool_choice: ToolChoice = None,
    parallel_tool_calls: ParallelTools = None,
    reasoning: Reasoning = None,
    reasoning_effort: Effort = None,
    reasoning_budget: Budget = None,
    adapter: Adapter = None,
    session: Session = None,
    flex: Flex = False,
    label: Label = None,
    request_id: RequestId = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Generate a response and stream it; with --json, print the whole result at the end.

    Without a prompt, all of standard input is the prompt. On a terminal, long lines are wrapped
    between words, and reasoning is dimmed; piped text is unchanged, and has no reasoning.

    Further examples: mlxmesh generate "Who is Ada?" --json-schema person.json

    mlxmesh generate "Is 7 prime?" --choice yes --choice no --logprobs 5

    mlxmesh generate "Bonjour" --model qwen --adapter french

    mlxmesh generate "What is this?" --model qwen2-vl --image photo.jpg

    mlxmesh generate "What is 3 + 4?" -n 3 --tool add.json --tool-choice add
    """
    text = _read(prompt)
    reasons = reasoning_options(reasoning, reasoning_effort, reasoning_budget)
    chat_only = (image, "--image"), (system, "--system"), (tool, "--tool"), (reasons, "reasoning")
    for given, option in chat_only:
        if raw and given:
            fail(f"{option} needs the chat template; remove --raw")
    messages = _messages(system, text, image or ())
    what: dict[str, Any] = {"prompt": text} if raw else {"messages": messages}
    constraint = constraint_options(json_schema, json_object, regex, grammar, choice)
    options = {
        **options_given(max_tokens, temperature, top_p, top_k, seed, stop),
        **constraint,
        **tool_options(tool, tool_choice, parallel_tool_calls),
        **reasons,
        **other_options(outputs, logprobs, prompt_logprobs, adapter, session, flex, label),
    }
    if request_id is not None:
        options["request_id"] = request_id

    async def work() -> None:
        from mlxmesh_cli.screen.responses import Response, default_model, show

        answer, resumable = Response(), nullcontext()
        if request_id is not None:
            resumable = told_how_to_resume(request_id, answer, address, data_dir)
        with resumable:
            async with connect(address, data_dir) as client:
                name = model or await default_model(client)
                if json:
                    print_json(to_dict(await client.complete(name, **what, **options)))
                    return
                await show(client.generate(name, **what, **options), answer, expected=outputs)
            if (constraint or tool) and answer.is_cut():
                _note_cut(outputs)

    run(work())


def _note_cut(outputs: int) -> None:
    """An output that reached its maximum length may lack the end of an object or a call."""
    what = "an output" if outputs > 1 else "the output"
    say(
        f"{what} reached its maximum length and may be incomplete; --max-tokens raises it", err=True
    )


def attach(
    request_id: Annotated[
        str, typer.Argument(help="Request id that was given to `mlxmesh generate`.")
    ],
    after: Annotated[
        str,
        typer.Option(
            metavar="POSITION",
            help="Resume after this position, such as 12@1f0c, which is printed where a response"
            " breaks off. A sequence number alone may repeat or miss text if the response moved"
            " between instances.",
        ),
    ] = "0",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Resume a response that was started with --request-id, from its start or after a message.

    Responses are retained for five minutes after their end. A response has one reader at a time.
    """
    sequence, numbering = position_of(after)

    async def work() -> None:
        from mlxmesh_cli.screen.responses import Response, show

        answer, resumable = Response(), nullcontext()
        if not json:  # which prints nothing before the end
            resumable = told_how_to_resume(request_id, answer, address, data_dir)
        with resumable, told_how_to_read_all(request_id, numbering):
            async with connect(address, data_dir) as client:
                events = client.attach(request_id, after_sequence=sequence, numbering=numbering)
                await show(events, answer, quiet=json)
            if json:
                print_json(answer.as_dict())

    run(work())


def chat(
    model: Model = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    reasoning: Reasoning = None,
    reasoning_effort: Effort = None,
    reasoning_budget: Budget = None,
    adapter: Adapter = None,
    session: Session = None,
    history: History = True,
    address: Address = None,
    data_dir: DataDir = None,
) -> None:
    """Chat with a model over several turns; /help lists the chat's commands.

    Reasoning is shown dimmed. Ctrl-C stops a response, Ctrl-D leaves. Where standard input is not a
    terminal, each line is a question in one conversation.
    """
    options = {
        **options_given(max_tokens, temperature, top_p, top_k, seed, None),
        **reasoning_options(reasoning, reasoning_effort, reasoning_budget),
        **other_options(1, None, False, adapter, session, False, None),
    }

    async def work() -> None:
        from mlxmesh_cli.commands.chat_session import ChatSession
        from mlxmesh_cli.screen.conversation import Conversation
        from mlxmesh_cli.screen.responses import default_model

        async with connect(address, data_dir) as client:
            conversation = Conversation(model or await default_model(client), system or "")
            session = ChatSession(client, conversation, options)
            if not sys.stdin.isatty():
                await session.answer_lines()
                return
            from mlxmesh_cli.screen.chat_prompt import ChatPrompt

            await session.introduce(gateway_address(address, data_dir))
            await session.answer_questions(ChatPrompt(keep_history=history))

    run(work())


def tokens(
    prompt: Prompt = None,
    model: Model = None,
    raw: Raw = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Count the tokens of a prompt; with --json, print their ids as well."""
    text = _read(prompt)
    what: dict[str, Any] = {"prompt": text} if raw else {"messages": _messages(None, text)}

    async def work() -> dict[str, Any]:
        from mlxmesh_cli.screen.responses import default_model

        async with connect(address, data_dir) as client:
            name = model or await default_model(client)
            return to_dict(await client.count_tokens(name, **what, return_token_ids=json))

    result = run(work())
    if json:
        print_json(result)
    else:
        typer.echo(result["tokens"])


def _messages(system: str | None, text: str, images: Sequence[Path] = ()) -> list[dict[str, Any]]:
    content: str | list[str | Path] = [*images, text] if images else text
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": content}]


def _read(prompt: str | None) -> str:
    text = _as_text(_given(prompt))
    if not text:
        fail("the prompt is empty; give it as an argument, or on standard input")
    return text


def _given(prompt: str | None) -> bytes:
    if prompt is not None and prompt != "-":
        return os.fsencode(prompt)
    if sys.stdin.isatty():
        fail('give a prompt, for example `mlxmesh generate "Hi"`, or pipe one in')
    return sys.stdin.buffer.read()


def _as_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        fail("the prompt is not UTF-8")
