"""Commands about single texts: generate, attach, tokens."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from mlxmesh_cli.commands.completion import complete_model
from mlxmesh_cli.mesh.session import (
    Address,
    DataDir,
    Json,
    connect,
    fail,
    print_json,
    run,
    to_dict,
)

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="NAME, NAME@VERSION or NAME:ALIAS.  [default: pocket, or the first that serves]",
        autocompletion=complete_model,
    ),
]
Prompt = Annotated[str | None, typer.Argument(help="The text; `-` or none reads standard input.")]
MaxTokens = Annotated[
    int | None, typer.Option(help="Tokens at most, 1 to 1,000,000.  [default: 512]")
]
Temperature = Annotated[
    float | None,
    typer.Option(help="0 always takes the likeliest token, 10 is wildest.  [default: 0]"),
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Draw from the likeliest tokens that together have this probability, up"
        " to 1.  [default: 1, which is all]"
    ),
]
TopK = Annotated[
    int | None, typer.Option(help="Draw from this many likeliest tokens.  [default: 0, all]")
]
Seed = Annotated[
    int | None, typer.Option(help="The same seed gives the same answer.  [default: a new one]")
]
Stop = Annotated[
    list[str] | None, typer.Option(help="A text that ends the answer; may be repeated.")
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Send the text as it is, without the model's chat template.")
]


def generate(
    prompt: Prompt = None,
    model: Model = None,
    raw: Raw = False,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    stop: Stop = None,
    request_id: Annotated[
        str | None, typer.Option(help="Names the answer, for `mlxmesh attach` and for repeats.")
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Stream one answer to a prompt; with --json, print the whole result at the end.

    Without a prompt all of standard input is one. On a terminal long lines are wrapped between
    words; piped text is as the model made it.
    """
    text = _read(prompt)
    if raw and system:
        fail("--system needs the chat template; leave out --raw")
    what: dict[str, Any] = {"prompt": text} if raw else {"messages": _messages(system, text)}
    options = options_given(max_tokens, temperature, top_p, top_k, seed, stop)
    if request_id is not None:
        options["request_id"] = request_id

    async def work() -> None:
        from mlxmesh_cli.screen.answers import default_model, show

        async with connect(address, data_dir) as client:
            name = model or await default_model(client)
            if json:
                print_json(to_dict(await client.complete(name, **what, **options)))
            else:
                await show(client.generate(name, **what, **options))

    run(work())


def attach(
    request_id: Annotated[str, typer.Argument(help="As given to `mlxmesh generate`.")],
    after: Annotated[
        int, typer.Option(min=0, help="Only what came after the message with this number.")
    ] = 0,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Stream an answer that was begun with --request-id, from its start or after any message.

    It is kept for five minutes after its end. Only one reader has it at a time.
    """

    async def work() -> None:
        from mlxmesh_cli.screen.answers import show

        async with connect(address, data_dir) as client:
            answer = await show(client.attach(request_id, after_sequence=after), quiet=json)
            if json:
                print_json(answer.as_dict())

    run(work())


def tokens(
    prompt: Prompt = None,
    model: Model = None,
    raw: Raw = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Count the tokens of a prompt; with --json, print their ids too."""
    text = _read(prompt)
    what: dict[str, Any] = {"prompt": text} if raw else {"messages": _messages(None, text)}

    async def work() -> dict[str, Any]:
        from mlxmesh_cli.screen.answers import default_model

        async with connect(address, data_dir) as client:
            name = model or await default_model(client)
            return to_dict(await client.count_tokens(name, **what, return_token_ids=json))

    result = run(work())
    if json:
        print_json(result)
    else:
        typer.echo(result["tokens"])


def options_given(
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    seed: int | None,
    stop: list[str] | None,
) -> dict[str, Any]:
    """The options that were given; the mesh fills in and checks the rest."""
    given = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop": stop,
    }
    return {name: value for name, value in given.items() if value is not None}


def _messages(system: str | None, text: str) -> list[tuple[str, str]]:
    return [*([("system", system)] if system else []), ("user", text)]


def _read(prompt: str | None) -> str:
    text = _as_text(_given(prompt))
    if not text:
        fail("the prompt is empty")
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
