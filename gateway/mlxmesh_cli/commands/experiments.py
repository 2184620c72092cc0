"""Commands about experiments: start, list, show, analyze, stop, score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.model_name import EveryModel, ModelName
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.experiment_pb2 import (
        AnalyzeExperimentResponse,
        Experiment,
        ReportOutcomeResponse,
    )

experiment = typer.Typer(help="Compare versions of a model on live traffic.", no_args_is_help=True)

ExperimentId = Annotated[str, typer.Argument(metavar="ID", help="Id of the experiment.")]
SUBJECTS = ("session", "user", "principal")
METRICS = (
    "ttft",
    "tokens_per_second",
    "error",
    "completion_tokens",
    "schema_valid",
    "tools_valid",
    "cost",
    "score",
)


@experiment.command(
    "start",
    short_help="Start an experiment.",
    epilog="Example: mlxmesh experiment start chat --arm control=1:50 --arm new=2:50 --by session",
)
def start(
    name: ModelName,
    arm: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VERSION:WEIGHT",
            help="An arm, its version and its share in percent; 2 to 10 of them, which add up to"
            " 100. The others are compared with the first one.",
        ),
    ],
    by: Annotated[
        str,
        typer.Option(
            metavar="|".join(SUBJECTS),
            help="What stays in one arm: the session_id, the label `user` or the caller.",
        ),
    ] = "session",
    alias: Annotated[
        str, typer.Option(help="Alias whose requests take part.  [default: default]")
    ] = "",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    experiment_id: Annotated[
        str, typer.Option("--id", help="Id, so that the command can be repeated.  [default: new]")
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Start an experiment: each subject gets one arm, for as long as the experiment runs.

    Versions that are not loaded are loaded first. Requests without a subject get the alias's own
    version and do not take part. Look at the results as often as you like.
    """
    if by not in SUBJECTS:
        raise typer.BadParameter(f"must be one of {', '.join(SUBJECTS)}", param_hint="--by")
    given = [arm_of(each) for each in arm]

    async def work() -> Experiment:
        from mlxmesh.model.v1.split_pb2 import SplitArm, SplitSubject

        arms = [SplitArm(arm=each, version=of, weight=share) for each, of, share in given]
        async with connect(address, data_dir) as client:
            return await client.start_experiment(
                name,
                arms=arms,
                alias=alias,
                subject=SplitSubject.Value(f"SPLIT_SUBJECT_{by.upper()}"),
                description=description,
                experiment_id=experiment_id,
            )

    started = run(work())
    if json:
        print_json(to_dict(started))
        return
    state = to_dict(started)["state"]
    waits = f" ({started.reason})" if started.reason else ""
    typer.echo(
        f"{started.experiment_id} is {state}{waits}; see it with `mlxmesh experiment analyze"
        f" {started.experiment_id}`"
    )


@experiment.command(
    "list", short_help="List experiments.", epilog="Example: mlxmesh experiment list chat"
)
def list_experiments(
    name: EveryModel = "",
    number: Annotated[
        int, typer.Option("-n", min=1, help="How many at most, the newest first.")
    ] = 100,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List experiments, the newest first."""

    async def work() -> list[Experiment]:
        async with connect(address, data_dir) as client:
            return await client.list_experiments(name, limit=number)

    found = [to_dict(each) for each in run(work())]
    if json:
        print_json({"experiments": found})
    elif found:
        from mlxmesh_cli.screen.experiment_tables import experiments_table

        print_view(experiments_table(found))
    else:
        of = f" of {name}" if name else ""
        typer.echo(f"no experiments{of}; start one with `mlxmesh experiment start`")


@experiment.command(
    "show", short_help="Show one experiment.", epilog="Example: mlxmesh experiment show e-1a2b3c"
)
def show(
    experiment_id: ExperimentId,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show what an experiment compares, and its state."""

    async def work() -> Experiment:
        async with connect(address, data_dir) as client:
            return await client.get_experiment(experiment_id)

    found = to_dict(run(work()))
    if json:
        print_json(found)
        return
    from mlxmesh_cli.screen.experiment_tables import experiment_view

    print_view(experiment_view(found))


@experiment.command(
    "analyze",
    short_help="Compare the arms.",
    epilog="Example: mlxmesh experiment analyze e-1a2b3c --metric ttft --plot ttft.svg",
)
def analyze(
    experiment_id: ExperimentId,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help=f"Metric: {', '.join(METRICS)}; may be repeated. Fewer give narrower intervals:"
            " choose before you look.  [default: all]",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0.0001,
            max=0.5,
            help="Probability of any wrong difference, ever.  [default: 0.05]",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw the differences over the number of values."),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Compare the arms of an experiment by each metric, and say what the figures mean.

    The intervals hold at all times at once, so that looking early or often does no harm.
    """
    unknown = [each for each in metric or () if each not in METRICS]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]} is none of {', '.join(METRICS)}", param_hint="--metric"
        )
    if plot is not None:
        _check_plot(plot)

    async def work() -> AnalyzeExperimentResponse:
        from mlxmesh.model.v1.experiment_pb2 import ExperimentMetric

        chosen = [
            ExperimentMetric.Value(f"EXPERIMENT_METRIC_{each.upper()}") for each in metric or ()
        ]
        async with connect(address, data_dir) as client:
            return await client.analyze_experiment(experiment_id, alpha=alpha, metrics=chosen)

    found = run(work())
    shown = to_dict(found)
    if plot is not None:
        from mlxmesh_cli.screen.experiment_plot import draw

        draw(found, plot)
    if json:
        print_json(shown)
        return
    from mlxmesh_cli.screen.experiment_tables import analysis_view

    print_view(analysis_view(shown))
    if plot is not None:
        typer.echo(f"drawn in {plot}", err=True)


def _check_plot(plot: Path) -> None:
    from importlib.util import find_spec

    if plot.suffix not in (".svg", ".png", ".pdf"):
        raise typer.BadParameter("must end with .svg, .png or .pdf", param_hint="--plot")
    if not plot.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {plot.parent}", param_hint="--plot")
    if find_spec("matplotlib") is None:
        fail('--plot needs matplotlib: pip install "mlxmesh[plots]"')


@experiment.command(
    "stop",
    short_help="End an experiment.",
    epilog="Example: mlxmesh experiment stop e-1a2b3c --winner new",
)
def stop(
    experiment_id: ExperimentId,
    winner: Annotated[
        str,
        typer.Option(help="Arm whose version the alias means from now on.  [default: as before]"),
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """End an experiment. Its versions stay loaded, and its analysis stays."""

    async def work() -> Experiment:
        async with connect(address, data_dir) as client:
            return await client.stop_experiment(experiment_id, winner=winner)

    stopped = run(work())
    if json:
        print_json(to_dict(stopped))
        return
    version = next((arm.version for arm in stopped.arms if arm.arm == winner), 0)
    means = f"means version {version}" if winner else "means what it meant before"
    typer.echo(f"{experiment_id} has ended; {stopped.model}:{stopped.alias} {means}")


@experiment.command(
    "score",
    short_help="Report your own score of a response.",
    epilog="Example: mlxmesh experiment score my-request 0.8",
    # Else a negative score would be an option.
    context_settings={"ignore_unknown_options": True},
)
def score(
    request_id: Annotated[str, typer.Argument(help="request_id of the response.")],
    value: Annotated[
        float,
        typer.Argument(
            metavar="SCORE", min=-1_000_000, max=1_000_000, help="Your score; more is better."
        ),
    ],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Report your own score of a response that ended in the last 7 days, once.

    It must belong to an experiment. Responses can be scored some seconds after their end.
    """

    async def work() -> ReportOutcomeResponse:
        async with connect(address, data_dir) as client:
            return await client.report_outcome(request_id, value)

    counted = run(work())
    result: dict[str, Any] = to_dict(counted)
    if json:
        print_json(result)
    else:
        typer.echo(f"counted in {counted.experiment_id} for the arm {counted.arm}")


def arm_of(text: str) -> tuple[str, int, int]:
    """The name, the version and the weight of NAME=VERSION:WEIGHT."""
    name, has_version, rest = text.partition("=")
    version, has_weight, weight = rest.partition(":")
    numbers = all(each.isascii() and each.isdecimal() for each in (version, weight))
    if not (name and has_version and has_weight and numbers) or len(version + weight) > 12:
        raise typer.BadParameter(
            f"{text} is not NAME=VERSION:WEIGHT, such as control=1:50", param_hint="--arm"
        )
    return name, int(version), int(weight)
