"""What one generation will do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlxmesh_generation.domain.adapter import Adapter
from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.ensemble import Step
from mlxmesh_generation.domain.request import Chat, GenerationRequest, PlacedImage, PromptInput
from mlxmesh_generation.domain.routing import UNASSIGNED, Assignment, Price, Shadow
from mlxmesh_generation.parsers.parts import Reading
from mlxmesh_generation.placement.sequence import EngineConstraint
from mlxmesh_shared.errors import MeshError


@dataclass(slots=True)
class ExpandedPrompt:
    """What an engine made of a prompt with images."""

    tokens: int | None = None
    """None as long as no engine has accepted it."""


@dataclass(frozen=True)
class Plan:
    """All that an engine needs to run a request, whichever engine that is."""

    request: GenerationRequest
    version: ModelVersion
    prompt_token_ids: Sequence[int]
    max_tokens: int
    seed: int
    """Of output 0; `output_seed` derives those of the others."""
    received_s: float
    """When the request arrived, in time.monotonic()."""
    deadline_s: float | None
    """When the generation must have ended, in time.monotonic()."""
    constraint: EngineConstraint | None = None
    reading: Reading | None = None
    """How outputs are taken apart; None if they are text only."""
    assignment: Assignment = UNASSIGNED
    """The arm of a split that it belongs to."""
    shadows: tuple[Shadow, ...] = ()
    """Those that may repeat it."""
    price: Price | None = None
    load_timeout_s: float | None = None
    """How long it may wait until its model is loaded; None if it is not loaded on demand."""
    shadow_id: str = ""
    """The shadow that it is a repetition for; empty for a caller's own generation."""
    resumed: bool = False
    """Whether it continues a generation of another process."""
    steps: tuple[Step, ...] = ()
    """Of an ensemble whose answer it resumes; the chosen one is its own."""
    images: tuple[PlacedImage, ...] = ()
    expanded: ExpandedPrompt = field(default_factory=ExpandedPrompt, compare=False)
    """Shared by all copies of the plan."""

    @property
    def prompt_tokens(self) -> int:
        """With the tokens of images, once an engine has accepted it."""
        return self.expanded.tokens or len(self.prompt_token_ids)

    adapter: Adapter | None = None
    """As it was when the generation began."""


# llguidance's words, after the line of the grammar.
_REFUSED_SCHEMA = re.compile(r"at (\d+)\(\d+\): failed to compile JSON schema: ")
_ARGUMENTS = re.compile(r"arguments_(\d+)")
_GOLDEN = 0x9E3779B97F4A7C15


def output_seed(seed: int, index: int) -> int:
    """The seed of an output: the request's own for the first, unrelated ones for the others."""
    return (seed + index * _GOLDEN) % 2**64


def name_callers_field(error: MeshError, plan: Plan) -> MeshError:
    """Makes an engine's error name the field of the caller's request."""
    request = plan.request
    if error.field.startswith("images["):
        return _name_callers_image(error, plan)
    is_default = error.field == "max_tokens" and request.max_tokens is None
    if is_default or error.field == "images" or error.field.startswith("prompt_token_ids"):
        error.field = request.input.field
    elif plan.constraint is not None and error.field.partition(".")[0] == "constraint":
        place = _REFUSED_SCHEMA.search(error.message)
        if place is None or plan.constraint.field not in ("tools", "tool_choice"):
            error.field = plan.constraint.field
        else:
            error.field = _refused_tool(int(place[1]), request.input, plan.constraint)
            error.message = f"{error.field} cannot be used: {error.message[place.end() :]}"
    return error


def _name_callers_image(error: MeshError, plan: Plan) -> MeshError:
    index = int(error.field.removeprefix("images[").partition("]")[0])
    path = plan.images[index].image.path if index < len(plan.images) else "chat"
    error.message = error.message.replace(error.field, path, 1)
    error.field = path
    return error


def _refused_tool(line: int, chat: PromptInput, constraint: EngineConstraint) -> str:
    """The field of the tool whose schema has a line of the grammar of calls."""
    rules = constraint.text.splitlines()[line - 1 : line]
    found = _ARGUMENTS.match(rules[0]) if rules else None
    if found is None or not isinstance(chat, Chat) or chat.tools is None:
        return "tools"
    only = chat.tools.only
    places = [at for at, tool in enumerate(chat.tools.tools) if only in ("", tool.name)]
    return f"tools[{places[int(found[1])]}].parameters_json_schema"
