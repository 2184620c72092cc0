"""Options that `mlxmesh generate` and `mlxmesh chat` share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlxmesh_cli.commands.completion import complete_model

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="NAME, NAME@VERSION or NAME:ALIAS.  [default: pocket, or the first loaded model]",
        autocompletion=complete_model,
    ),
]
System = Annotated[str | None, typer.Option(help="System message.")]
MaxTokens = Annotated[
    int | None, typer.Option(help="Maximum number of new tokens, 1 to 1,000,000.  [default: 512]")
]
Temperature = Annotated[
    float | None,
    typer.Option(help="Sampling temperature, 0 to 10; 0 is greedy decoding.  [default: 0]"),
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Sample from the most likely tokens whose probabilities add up to this, at most"
        " 1.  [default: 1, all tokens]"
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(help="Sample from this many of the most likely tokens.  [default: 0, all]"),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed; the same seed gives the same output.  [default: random]"),
]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Stop at this text; may be repeated.")
]


def options_given(
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    seed: int | None,
    stop: list[str] | None,
) -> dict[str, Any]:
    """The options that were given; the mesh applies defaults and checks ranges."""
    given = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop": stop,
    }
    return {name: value for name, value in given.items() if value is not None}
