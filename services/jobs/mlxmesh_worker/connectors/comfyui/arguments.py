"""The arguments of ComfyUI's connectors: a workflow, with the input files that its nodes read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_worker.connectors.arguments import Arguments

INPUT_FILE = "input_file"
"""An input {"input_file": NAME} of a node stands for an input file of the job."""


class Node(BaseModel):
    """A node of a workflow in ComfyUI's API format."""

    model_config = ConfigDict(extra="allow", frozen=True)

    class_type: Annotated[str, Field(min_length=1, max_length=256)]
    inputs: dict[str, Any]


class Prompt(Arguments):
    """A workflow to run."""

    prompt: Annotated[dict[str, Node], Field(min_length=1, max_length=2_000)]
    """The workflow in API format: nodes by their ids."""
    targets: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    """The ids of the output nodes to run; all of them by default."""


OPERATIONS: Mapping[str, type[Prompt]] = {"prompt": Prompt}


def input_files(prompt: Prompt, inputs: Sequence[str]) -> set[str]:
    """The names of the input files that its nodes read. Raises: InvalidArgument for one that the
    job does not have.
    """
    names: set[str] = set()
    for node_id, node in prompt.prompt.items():
        for input_name, value in node.inputs.items():
            name = _file_name(value)
            if name is not None and name not in inputs:
                where = f"arguments.prompt.{node_id}.inputs.{input_name}"
                raise InvalidArgument(f"{where}: the job has no input file {name}", field=where)
            names |= set() if name is None else {name}
    return names


def resolved(prompt: Prompt, uploaded: Mapping[str, str]) -> dict[str, Any]:
    """The workflow, with each input file replaced by its name at ComfyUI."""
    nodes: dict[str, Any] = {}
    for node_id, node in prompt.prompt.items():
        found = node.model_dump()
        for input_name, value in node.inputs.items():
            name = _file_name(value)
            if name is not None:
                found["inputs"][input_name] = uploaded[name]
        nodes[node_id] = found
    return nodes


def _file_name(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, object]", value)
    name = fields.get(INPUT_FILE)
    return name if isinstance(name, str) and len(fields) == 1 else None
