"""Which instance a name means."""

from __future__ import annotations

import pytest
import typer

from mlxmesh_cli.commands.rolling import chosen
from mlxmesh_shared.registry import Instance

KNOWN = [Instance("engine", name, "127.0.0.1:1", 1) for name in ("pocket-a", "pocket-ab", "tiny-a")]


@pytest.mark.parametrize(
    ("name", "found"), [("t", "tiny-a"), ("pocket-ab", "pocket-ab"), ("pocket-a", "pocket-a")]
)
def test_a_beginning_is_enough_and_a_whole_id_wins(name: str, found: str) -> None:
    assert chosen(KNOWN, name).instance_id == found


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pocket", "'pocket' is ambiguous; it matches: pocket-a, pocket-ab\n"),
        ("big", "no instance 'big'; available: pocket-a, pocket-ab, tiny-a\n"),
    ],
)
def test_else_it_says_what_there_is(
    name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        chosen(KNOWN, name)
    assert capsys.readouterr().err == f"error: {says}"
