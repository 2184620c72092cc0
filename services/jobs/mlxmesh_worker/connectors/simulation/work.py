"""What the simulated back end does, and what it says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, ValidationError

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument, MeshError
from mlxmesh_worker.connectors.arguments import Arguments, parse
from mlxmesh_worker.connectors.files import Outputs
from mlxmesh_worker.connectors.port import Outcome, Reports, Task

OPERATIONS = ("simulate",)


class Simulate(Arguments):
    """Work that takes time and may fail."""

    duration_s: Annotated[float, Field(ge=0, le=86_400)] = 0
    """How long it takes."""
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Steps of equal length that it reports."""
    failure_rate: Annotated[float, Field(ge=0, le=1)] = 0
    """The part of attempts that fail in a way that another attempt may not meet."""
    outputs: Annotated[int, Field(ge=0, le=64)] = 0
    """Files that it makes."""
    output_bytes: Annotated[int, Field(ge=0, le=64 * 1024 * 1024)] = 1_024
    """The size of each of them."""
    value: Annotated[str, Field(max_length=100_000)] = ""
    """Returned in the result."""


class Status(BaseModel):
    """What the back end says about a job."""

    state: str
    """running, done, failed, cancelled, refused or fenced."""
    attempt: int = 0
    """The latest attempt that it has seen."""
    step: int = 0
    steps: int = 0
    message: str = ""
    """Why it failed or was refused."""
    result: dict[str, Any] = Field(default_factory=dict[str, Any])
    outputs: Sequence[str] = ()
    """The paths of the files that it made."""


class SimulationConnector:
    """What the simulation's connectors have in common."""

    operations: ClassVar[Sequence[str]] = OPERATIONS

    def check(self, operation: str, arguments: Mapping[str, Any]) -> None:
        """As Connector."""
        parse({"simulate": Simulate}, operation, arguments)


def order_of(task: Task) -> Mapping[str, Any]:
    """What the back end is asked. Raises: InvalidArgument."""
    work = parse({"simulate": Simulate}, task.operation, task.arguments)
    return {"job_id": task.job_id, "attempt": task.attempt, **work.model_dump()}


def status_of(answer: object) -> Status:
    """What the back end said. Raises: BackEndFailed."""
    try:
        return Status.model_validate(answer)
    except ValidationError:
        raise BackEndFailed("the simulation sent a status that it does not document") from None


def failure_of(status: Status) -> MeshError | None:
    """Why a job has ended without a result; None if it runs, or has one."""
    match status.state:
        case "running" | "done":
            return None
        case "refused":
            return InvalidArgument(f"the simulation refused the job: {status.message}")
        case "fenced":
            return BackEndFailed(f"attempt {status.attempt} of this job runs at the simulation")
        case "cancelled":
            return BackEndFailed("someone cancelled the job at the simulation")
        case _:
            return BackEndFailed(f"the simulation failed: {status.message}")


async def reported(status: Status, reports: Reports) -> None:
    """Reports the progress in a status."""
    await reports.progress(
        fraction=status.step / status.steps if status.steps else 0.0,
        done=status.step,
        total=status.steps,
        unit="steps",
    )


def outcome_of(status: Status, outputs: Outputs) -> Outcome:
    """The outcome of a job that is done."""
    return Outcome(result=status.result, files=tuple(outputs.made))
