"""Mistral's format of tool calls. Pure."""

from collections.abc import Sequence

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers import grammars
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.grammars import literal, marker
from mlxmesh_generation.parsers.json_grammars import JsonGrammar, Written
from mlxmesh_generation.parsers.marked import Shape
from mlxmesh_generation.parsers.mistral import ARGUMENTS, CALL_ID, START, MistralParser
from mlxmesh_generation.parsers.parts import OutputParser


class MistralFormat:
    """Both forms are read; a grammar makes the one of the tokenizer."""

    name = "mistral"
    markers = frozenset((START, CALL_ID, ARGUMENTS))

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return MistralParser()

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        if token_id(ARGUMENTS) is None:
            written = Written(start=START, before=" ", brackets=("[", "]"), separator=", ")
            grammar = JsonGrammar(written, Shape(starts=(START,)), token_id, parallel=parallel)
            return grammar.text(tools, required=required)
        rules = {"call": " | ".join(f"call_{index}" for index in range(len(tools)))}
        for index, tool in enumerate(tools):
            middle = marker(ARGUMENTS, token_id)
            rules[f"call_{index}"] = f"{literal(tool.name)} {middle} arguments_{index}"
            rules[f"arguments_{index}"] = grammars.arguments(tool, required=required)
        if required:
            rules["marked"] = f"{marker(START, token_id)} call"
            return grammars.rules(
                {"start": grammars.repeated("marked", "", parallel=parallel), **rules}
            )
        start = grammars.text_with_calls(
            START, "call", (START,), parallel=parallel, token_id=token_id
        )
        return grammars.rules(start | rules)


MISTRAL = MistralFormat()
