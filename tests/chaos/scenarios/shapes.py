"""kill -9 under answers with a shape: schemas, tool calls, reasoning, several outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from google.protobuf.json_format import ParseDict

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from tests.bench.results import Findings
from tests.chaos.checker import Violation, by_request
from tests.chaos.clients import Crowd
from tests.chaos.figures import Disturbance, Targets, at_most, findings
from tests.chaos.history import Call
from tests.chaos.mesh import ChaosMesh, Shape, kill, running
from tests.chaos.rounds import HISTORY, REFERENCE
from tests.chaos.scenario import Run, Scenario
from tests.chaos.shape_reader import ShapeReader, wrong_logprobs

STREAMS, TOKENS = 24, 60
TOKENS_BEFORE_FAULT = 8
_SCHEMA = """{"type": "object", "required": ["name", "tags", "size"], "properties": {
    "name": {"type": "string", "minLength": 20}, "size": {"type": "integer"},
    "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3}}}"""
_WEATHER = """{"type": "object", "required": ["city", "note"], "properties": {
    "city": {"type": "string", "minLength": 10}, "note": {"type": "string", "minLength": 20}}}"""
_SHAPES: Sequence[dict[str, Any]] = (
    {"json_schema": _SCHEMA},
    {
        "tools": [{"name": "get_weather", "parameters_json_schema": _WEATHER}],
        "tool_choice": {"mode": "TOOL_MODE_REQUIRED"},
    },
    {"reasoning": {"enabled": True, "budget_tokens": 30}, "json_schema": _SCHEMA},
    {"n": 4, "logprobs": {"top": 3}},
)


def shaped_requests() -> list[GenerateRequest]:
    """Each shape, greedy and seeded."""
    return [_request(number) for number in range(STREAMS)]


def _request(number: int) -> GenerateRequest:
    shape = _SHAPES[number % len(_SHAPES)]
    chat = {"messages": [{"role": "ROLE_USER", "content": f"What is the weather in {number}?"}]}
    sampling = {"seed": 1000 + number, "temperature": 1.2 if number // 4 % 2 else 0}
    fixed = {"model": "pocket", "chat": chat, "max_tokens": TOKENS, "sampling": sampling}
    return ParseDict({**fixed, **shape}, GenerateRequest())


class _ShapeTrial:
    """The same streams again and again, each time with something broken."""

    def __init__(self, run: Run, mesh: ChaosMesh) -> None:
        self._run = run
        self.mesh = mesh
        self._logprobs: dict[str, list[float]] = {}
        self._violations: list[Violation] = []
        self._disturbances: list[Disturbance] = []

    async def undisturbed(self) -> None:
        readers = await self._read(REFERENCE, [self.mesh.address], None)
        self._run.keep(REFERENCE, _calls(readers))
        for reader in readers:
            self._logprobs |= reader.logprobs()

    async def disturbed(
        self, label: str, break_: Callable[[], None], gateways: Sequence[str] = ()
    ) -> None:
        prefix = f"round-{len(self._disturbances)}"
        readers = await self._read(prefix, gateways or [self.mesh.address], break_)
        self._run.keep(HISTORY, _calls(readers))
        for reader in readers:
            self._violations += wrong_logprobs(reader.logprobs(), self._logprobs, reader.call_id)
        self._disturbances.append(Disturbance(label, prefix, self._fault_s, None))
        self._run.report(f"{label}: {len(readers)} streams")

    def judge(self) -> Findings:
        reference = by_request(self._run.kept(REFERENCE))
        found = findings(self._run.kept(HISTORY), reference, self._disturbances, Targets())
        wrong = at_most("outputs with other log-probabilities", len(self._violations), 0)
        return Findings([*found.results, wrong], found.tables)

    async def _read(
        self, prefix: str, gateways: Sequence[str], break_: Callable[[], None] | None
    ) -> list[ShapeReader]:
        async with Crowd(gateways, reader=ShapeReader) as crowd:
            crowd.start(shaped_requests(), prefix)
            if break_ is not None:
                await crowd.until_each_has(TOKENS_BEFORE_FAULT)
                self._fault_s = time.monotonic()
                break_()
            await crowd.finish()
            return [reader for reader in crowd.readers if isinstance(reader, ShapeReader)]


def _calls(readers: Sequence[ShapeReader]) -> list[Call]:
    return [call for reader in readers for call in reader.outputs()]


async def kill_under_shapes(run: Run) -> Findings:
    """An engine, a generation instance and a gateway in turns, each one of two."""
    async with running(Shape(replicas=2, generations=2, gateways=2, environment={})) as mesh:
        trial = _ShapeTrial(run, mesh)
        await trial.undisturbed()
        for number in run.rounds():
            service = ("engine", "generation", "gateway")[number % 3]
            if service == "engine":
                victim = (await mesh.instances("engine"))[number // 3 % 2]
            else:
                victim = await mesh.added(service)
            ways = [victim.address, mesh.address] if service == "gateway" else []
            await trial.disturbed(f"kill -9 of {service}", partial(kill, victim), ways)
            if service != "engine":
                await mesh.add(service)
            await mesh.until_whole()
        return trial.judge()


SCENARIOS = (
    Scenario(
        "shape-kill",
        "kill -9 under schemas, tool calls, reasoning and n = 4 with log-probabilities",
        12,
        150,
        kill_under_shapes,
    ),
)
