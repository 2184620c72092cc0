"""Commands that make text: generate, chat, tokens."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.session import Address, DataDir, Json, connect, fail, print_json, run, to_dict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mlxmesh_client import GenerationEvent

DEFAULT_MODEL = "pocket"
Model = Annotated[str, typer.Option("--model", "-m", help="NAME, NAME@VERSION or NAME:ALIAS.")]
Prompt = Annotated[str | None, typer.Argument(help="The text; `-` or none reads standard input.")]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens to generate.  [default: 512]")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.  [default: 0]")]
TopP = Annotated[float | None, typer.Option(help="Nucleus sampling.  [default: 1]")]
TopK = Annotated[int | None, typer.Option(help="Keep the best k tokens.  [default: all]")]
Seed = Annotated[int | None, typer.Option(help="Makes a sampled answer repeatable.")]
Stop = Annotated[list[str] | None, typer.Option(help="Ends the answer; may be repeated.")]


def generate(
    prompt: Prompt = None,
    model: Model = DEFAULT_MODEL,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template.")] = False,
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
    """Stream one answer to a prompt; with --json, print the whole result at the end."""
    text = _read(prompt)
    if raw and system:
        fail("--system needs the chat template; leave out --raw")
    what: dict[str, Any] = {"prompt": text} if raw else {"messages": _messages(system, text)}
    options = _options(max_tokens, temperature, top_p, top_k, seed, stop)
    if request_id is not None:
        options["request_id"] = request_id

    async def work() -> None:
        async with connect(address, data_dir) as client:
            if json:
                print_json(to_dict(await client.complete(model, **what, **options)))
            else:
                await _show(client.generate(model, **what, **options))

    run(work())


def attach(
    request_id: Annotated[str, typer.Argument(help="As given to `mlxmesh generate`.")],
    after: Annotated[
        int, typer.Option(min=0, help="Only what came after the message with this number.")
    ] = 0,
    address: Address = None,
    data_dir: DataDir = None,
) -> None:
    """Stream an answer that was begun with --request-id, from its beginning or any message on."""

    async def work() -> None:
        async with connect(address, data_dir) as client:
            await _show(client.attach(request_id, after_sequence=after))

    run(work())


def chat(
    model: Model = DEFAULT_MODEL,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    address: Address = None,
    data_dir: DataDir = None,
) -> None:
    """Talk to a model over several turns. An empty line or Ctrl-D ends it."""
    options = _options(max_tokens, temperature, top_p, top_k, seed, None)
    messages = [("system", system)] if system else []

    async def work() -> None:
        async with connect(address, data_dir) as client:
            while question := _ask():
                messages.append(("user", question))
                answer = await _show(client.generate(model, messages=messages, **options))
                messages.append(("assistant", answer))

    run(work())


def tokens(
    prompt: Prompt = None,
    model: Model = DEFAULT_MODEL,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template.")] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Count the tokens of a prompt; with --json, print their ids too."""
    text = _read(prompt)
    what: dict[str, Any] = {"prompt": text} if raw else {"messages": _messages(None, text)}

    async def work() -> dict[str, Any]:
        async with connect(address, data_dir) as client:
            return to_dict(await client.count_tokens(model, **what, return_token_ids=json))

    result = run(work())
    if json:
        print_json(result)
    else:
        typer.echo(result["tokens"])


async def _show(events: AsyncIterator[GenerationEvent]) -> str:
    """Print an answer as it comes; returns it whole."""
    pieces: list[str] = []
    async for event in events:
        pieces.append(event.text)
        typer.echo(event.text, nl=False)
    typer.echo()
    return "".join(pieces)


def _options(
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
    if prompt is not None and prompt != "-":
        return prompt
    if sys.stdin.isatty():
        fail('give a prompt, for example `mlxmesh generate "Hi"`, or pipe one in')
    return sys.stdin.read()


def _ask() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
