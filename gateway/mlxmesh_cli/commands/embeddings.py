"""Commands that encode texts: embed, rerank."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.completion import complete_model
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.output_options import Flex
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, say

if TYPE_CHECKING:
    from mlxmesh.generation.v1.embedding_pb2 import EmbedResponse, RerankResponse

_STDIN = Path("-")

EncoderModel = Annotated[
    str, typer.Argument(help="Model reference.", autocompletion=complete_model)
]
Truncate = Annotated[
    bool, typer.Option("--truncate", help="Cut texts that exceed the model's context.")
]


class Purpose(StrEnum):
    """What texts are embedded for."""

    QUERY = "query"
    DOCUMENT = "document"


def embed(
    model: EncoderModel,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts; each gets a vector.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", help="File with a text per line; `-` is standard input."),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(min=1, help="First components of each vector only.  [default: all]"),
    ] = None,
    purpose: Annotated[
        Purpose | None,
        typer.Option("--as", help="What the texts are, for models with prompts."),
    ] = None,
    truncate: Truncate = False,
    flex: Flex = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print a vector for each text; with --json, whole vectors in one object.

    Without a text or a file, each line of standard input is a text. For people, the first
    components of each vector are shown, and how similar each text is to the first one (the cosine).

    Further example: mlxmesh embed minilm -f titles.txt --as document --json > vectors.json
    """
    given = _texts(texts, file)

    async def work() -> None:
        from mlxmesh_cli.screen.embedding_tables import vectors_table

        async with connect(address, data_dir) as client:
            response = await client.embed(
                model,
                given,
                dimensions=dimensions,
                purpose="" if purpose is None else purpose.value,
                truncate=truncate,
                flex=flex,
            )
        vectors = [list(each.values) for each in response.embeddings]
        if json:
            _print_json(response, embeddings=vectors)
            return
        print_view(vectors_table(given, vectors))
        components = f"{len(vectors)} of {len(vectors[0])} components"
        say(f"{components} {_source(response)}; --json prints them")

    run(work())


def rerank(
    model: EncoderModel,
    query: Annotated[str, typer.Argument(help="What the documents should answer.")],
    documents: Annotated[
        list[str] | None, typer.Argument(metavar="[DOCUMENT]...", help="The documents.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", help="File with a document per line; `-` is standard input."),
    ] = None,
    top: Annotated[
        int | None, typer.Option("-n", "--top", min=1, help="Most documents.  [default: all]")
    ] = None,
    instruction: Annotated[
        str, typer.Option(help="What makes a document relevant, for models that read that.")
    ] = "",
    truncate: Truncate = False,
    flex: Flex = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print documents by their relevance to a query, the most relevant first.

    Without a document or a file, each line of standard input is a document.

    Further example: mlxmesh rerank bge "capital of Norway" "Oslo" "Bergen" --json
    """
    given = _texts(documents, file)

    async def work() -> None:
        from mlxmesh_cli.screen.embedding_tables import ranking_table

        async with connect(address, data_dir) as client:
            response = await client.rerank(
                model,
                query,
                given,
                top_n=top,
                instruction=instruction,
                truncate=truncate,
                flex=flex,
            )
        results = [(each.index, each.relevance_score) for each in response.results]
        if json:
            found = [
                {"index": index, "relevance_score": score, "document": given[index]}
                for index, score in results
            ]
            _print_json(response, results=found)
            return
        print_view(ranking_table(given, results))
        say(_source(response))

    run(work())


def _print_json(response: EmbedResponse | RerankResponse, **results: object) -> None:
    model, tokens = _version(response), response.prompt_tokens
    print_json({"model": model, "prompt_tokens": tokens, **results})


def _source(response: EmbedResponse | RerankResponse) -> str:
    return f"by {_version(response)}, from {response.prompt_tokens} tokens"


def _version(response: EmbedResponse | RerankResponse) -> str:
    return f"{response.model}@{response.model_version}"


def _texts(given: list[str] | None, file: Path | None) -> list[str]:
    """Those of the arguments, else the lines of a file that are not empty."""
    if given and file is not None:
        fail("give texts or --file, not both")
    if given:
        return given
    try:
        if file is None or file == _STDIN:
            content = sys.stdin.read()
        else:
            content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file or 'standard input'} cannot be read: {error}")
    texts = [line for line in content.splitlines() if line.strip()]
    if not texts:
        fail("there is no text; give one after the model, or --file with one per line")
    return texts
