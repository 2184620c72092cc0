"""mlxmesh embed and rerank against a scripted mesh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mlxmesh.generation.v1 import embedding_pb2 as e
from mlxmesh.generation.v1.embedding_pb2_grpc import add_EmbeddingServiceServicer_to_server
from mlxmesh.generation.v1.generation_pb2 import SERVICE_TIER_FLEX
from mlxmesh_cli.commands.app import app
from mlxmesh_shared.errors import FeatureNotSupported
from tests.fakes.public_services import EMBEDDINGS, FakeGeneration, FakeModels
from tests.fakes.scripted_generation import serving_on_a_thread


class Mesh:
    """The commands, at one scripted mesh."""

    def __init__(self, fake: FakeGeneration, address: str) -> None:
        self.fake = fake
        self.address = address

    def run(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, [*arguments, "--address", self.address], input=stdin)

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """What a command that succeeds prints."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout


@pytest.fixture(scope="module")
def served() -> Iterator[Mesh]:
    fake = FakeGeneration()
    encoding = (add_EmbeddingServiceServicer_to_server, fake.embeddings)
    with serving_on_a_thread(fake, FakeModels(), encoding, names=[EMBEDDINGS]) as address:
        yield Mesh(fake, address)


@pytest.fixture
def mesh(served: Mesh) -> Mesh:
    served.fake.embeddings.requests.clear()
    return served


def test_vectors_are_shown_in_short_and_printed_whole(mesh: Mesh) -> None:
    shown = mesh.ok("embed", "small", "a fox", "a  dog\nor cat")
    assert "a dog or cat" in shown
    assert "+5.0000 -0.2500" in shown
    assert "1.0000" in shown
    printed = json.loads(mesh.ok("embed", "small", "a fox", "--json"))
    assert printed == {"model": "small@1", "prompt_tokens": 5, "embeddings": [[5.0, -0.25]]}


def test_options_of_embed_are_sent(mesh: Mesh) -> None:
    mesh.ok("embed", "small", "a", "--dimensions", "2", "--as", "query", "--truncate", "--flex")
    (request,) = mesh.fake.embeddings.requests
    assert request == e.EmbedRequest(
        model="small",
        inputs=[e.EmbedInput(text="a")],
        dimensions=2,
        purpose=e.EMBED_PURPOSE_QUERY,
        truncate=True,
        service_tier=SERVICE_TIER_FLEX,
    )


@pytest.mark.parametrize("source", ["file", "-", "stdin"])
def test_texts_are_the_lines_of_a_file_or_of_standard_input(
    mesh: Mesh, tmp_path: Path, source: str
) -> None:
    content = "a fox\n\na dog\n"
    (tmp_path / "texts.txt").write_text(content)
    given = {"file": ["-f", str(tmp_path / "texts.txt")], "-": ["-f", "-"], "stdin": []}[source]
    mesh.ok("embed", "small", *given, "--json", stdin=content)
    assert [each.text for each in mesh.fake.embeddings.requests[0].inputs] == ["a fox", "a dog"]


def test_documents_are_shown_by_their_relevance(mesh: Mesh) -> None:
    shown = mesh.ok("rerank", "small", "fox", "first", "second").splitlines()
    assert [line.split() for line in shown[1:3]] == [
        ["0.5000", "2", "second"],
        ["0.3333", "1", "first"],
    ]
    asked = ("rerank", "small", "fox", "first", "second", "-n", "1", "--instruction", "find")
    printed = json.loads(mesh.ok(*asked, "--json"))
    assert printed["results"] == [{"index": 1, "relevance_score": 0.5, "document": "second"}]
    assert mesh.fake.embeddings.requests[-1].instruction == "find"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["embed", "small"], "no text"),
        (["embed", "small", "a", "-f", "x.txt"], "not both"),
        (["embed", "small", "-f", "/nonexistent"], "cannot be read"),
        (["rerank", "small", "fox"], "no text"),
    ],
)
def test_what_has_no_texts_is_refused(mesh: Mesh, arguments: list[str], says: str) -> None:
    result = mesh.run(*arguments, stdin="\n")
    assert result.exit_code == 1
    assert says in result.output
    assert not mesh.fake.embeddings.requests


def test_an_error_of_the_mesh_is_told(mesh: Mesh) -> None:
    mesh.fake.failures.append(FeatureNotSupported("model: pocket makes no vectors", field="model"))
    result = mesh.run("embed", "pocket", "a")
    assert result.exit_code == 1
    assert "pocket makes no vectors" in result.output
