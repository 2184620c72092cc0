"""The group `rollout`: start, list, show, pause, resume, abort and promote."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.model_name import EveryModel, ModelName
from mlxmesh_cli.commands.policy_options import parse_seconds
from mlxmesh_cli.commands.session import Address, DataDir, Json, ask, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, say, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.rollout_pb2 import Rollout
    from mlxmesh_client import MeshClient

rollout = typer.Typer(
    help="Move an alias to another version in guarded steps.",
    no_args_is_help=True,
)


def _checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """A Typer callback that checks a text before anything is called."""

    def check(text: str) -> str:
        parse(text)
        return text

    return check


def _steps(text: str) -> list[int]:
    """The weights that --steps means. Raises: BadParameter."""
    parts = [part.strip().removesuffix("%") for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 100 for part in parts):
        raise typer.BadParameter("must be percentages that grow, such as 1,10,50,100")
    steps = [int(part) for part in parts]
    if steps != sorted(set(steps)):
        raise typer.BadParameter(f"must grow, as in 1,10,50,100; not {text}")
    return steps


def _hold(text: str) -> int:
    """The seconds that --hold means. Raises: BadParameter."""
    return parse_seconds(text, "--hold")


def _guard(text: str) -> str:
    """Typer parser of --guard: checks it before anything is called."""
    from mlxmesh_client.guards import parse_guard
    from mlxmesh_shared.errors import InvalidArgument

    try:
        parse_guard(text)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message) from None
    return text


RolloutId = Annotated[
    str, typer.Argument(metavar="ID", help="Id of the rollout; `mlxmesh rollout list` shows it.")
]


@rollout.command(
    "start",
    short_help="Start a rollout.",
    epilog="Example: mlxmesh rollout start chat --to 3 --steps 1,10,50,100 --hold 10m"
    " --guard 'error_rate<1%' --guard 'ttft_p95<1.2x' --watch",
)
def start(
    name: ModelName,
    to: Annotated[int, typer.Option("--to", min=1, help="Version to move to.")],
    alias: Annotated[
        str, typer.Option(help="Alias to move; `default` is what the bare name means.")
    ] = "default",
    steps: Annotated[
        str,
        typer.Option(
            callback=_checked(_steps),
            metavar="PERCENT,...",
            help="Growing weights of the new version.",
        ),
    ] = "1,10,50,100",
    hold: Annotated[
        str,
        typer.Option(callback=_checked(_hold), metavar="TIME", help="How long each step holds."),
    ] = "10m",
    guard: Annotated[
        list[str] | None,
        typer.Option(
            parser=_guard,
            metavar="METRIC<BOUND",
            help="Bound that the new version must keep; may be repeated: error_rate<1%,"
            " ttft_p95<300ms, ttft_p95<1.2x (times the present version's). Metrics: error_rate,"
            " ttft_p50, ttft_p95, ttft_p99, tpot_p50, tpot_p95, tokens_per_request,"
            " invalid_rate.  [default: error_rate<1%]",
        ),
    ] = None,
    min_requests: Annotated[
        int,
        typer.Option(
            min=0, help="A step lasts at least until the new version had so many requests."
        ),
    ] = 20,
    rollout_id: Annotated[
        str, typer.Option("--id", help="Id, so that the command may be repeated.  [default: new]")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Move an alias to another version, step by step; guards promote it or roll it back.

    The new version is loaded with as many replicas as the present one before it gets traffic. An
    error rate that is broken beyond chance ends the rollout at once, other guards are judged at the
    end of each step. With --watch, exit code 1 tells that the rollout did not end with the new
    version.
    """

    async def work() -> Rollout:
        async with connect(address, data_dir) as client:
            started = await client.start_rollout(
                name,
                to_version=to,
                alias=alias,
                steps=_steps(steps),
                hold_s=_hold(hold),
                guards=guard or (),
                min_requests=min_requests,
                rollout_id=rollout_id,
            )
            if not json:
                say(f"rollout {started.rollout_id} is started")
            return await _follow(client, started.rollout_id, json) if watch else started

    ended = run(work())
    if json:
        print_json(to_dict(ended))
    elif not watch:
        typer.echo(f"follow it with `mlxmesh rollout show {ended.rollout_id} --watch`")
    if watch:
        _exit_with(ended)


@rollout.command(
    "list",
    short_help="List rollouts, the newest first.",
    epilog="Example: mlxmesh rollout list chat",
)
def list_rollouts(
    name: EveryModel = "",
    number: Annotated[int, typer.Option("-n", min=1, help="How many at most.")] = 20,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List rollouts, the newest first."""

    async def work() -> list[Rollout]:
        async with connect(address, data_dir) as client:
            return await client.list_rollouts(name, limit=number)

    found = run(work())
    if json:
        print_json({"rollouts": [to_dict(each) for each in found]})
        return
    if not found:
        of = f" of {name}" if name else ""
        typer.echo(f"no rollouts{of}; start one with `mlxmesh rollout start NAME --to VERSION`")
        return
    from mlxmesh_cli.screen.rollout_tables import rollouts_table

    print_view(rollouts_table(found))


@rollout.command(
    "show",
    short_help="Show a rollout with its guards and history.",
    epilog="Example: mlxmesh rollout show r-3f2a91c07b44 --watch",
)
def show(
    rollout_id: RolloutId,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show a rollout: what its guards read in the present step, and every change so far."""

    async def work() -> Rollout:
        async with connect(address, data_dir) as client:
            if watch:
                return await _follow(client, rollout_id, json)
            return await client.get_rollout(rollout_id)

    shown = run(work())
    if json:
        print_json(to_dict(shown))
    elif not watch:
        _print(shown)
    if watch:
        _exit_with(shown)


@rollout.command(
    "pause", short_help="Keep the weights as they are.", epilog="Example: mlxmesh rollout pause r-1"
)
def pause(
    rollout_id: RolloutId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Keep the weights as they are until `resume`. Guards still roll it back."""
    _ask(lambda client: client.pause_rollout(rollout_id), address, data_dir, json)


@rollout.command(
    "resume", short_help="Continue a paused rollout.", epilog="Example: mlxmesh rollout resume r-1"
)
def resume(
    rollout_id: RolloutId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Continue a paused rollout; its present step begins again."""
    _ask(lambda client: client.resume_rollout(rollout_id), address, data_dir, json)


@rollout.command(
    "abort",
    short_help="End it and set the alias back.",
    epilog="Example: mlxmesh rollout abort r-1",
)
def abort(
    rollout_id: RolloutId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """End a rollout and set its alias back. Requests at the new version are finished there."""
    _ask(lambda client: client.abort_rollout(rollout_id), address, data_dir, json)


@rollout.command(
    "promote",
    short_help="End it and set the alias to the new version now.",
    epilog="Example: mlxmesh rollout promote r-1",
)
def promote(
    rollout_id: RolloutId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Set the alias to the new version at once, whatever the guards read; it must be loaded."""
    _ask(lambda client: client.promote_rollout(rollout_id), address, data_dir, json)


def _ask(
    call: Callable[[MeshClient], Awaitable[Rollout]],
    address: str | None,
    data_dir: Path | None,
    json: bool,
) -> None:
    changed = ask(call, address, data_dir)
    if json:
        print_json(to_dict(changed))
    else:
        _print(changed)


def _print(shown: Rollout) -> None:
    from mlxmesh_cli.screen.rollout_tables import rollout_view

    print_view(rollout_view(shown))


async def _follow(client: MeshClient, rollout_id: str, json: bool) -> Rollout:
    """Prints each change as it comes; the rollout once it has ended."""
    from mlxmesh_cli.screen.rollout_tables import change_line

    printed, last = 0, None
    async for last in client.follow_rollout(rollout_id):
        for change in last.history[printed:]:
            if not json:
                print_view(change_line(change))
        printed = len(last.history)
    assert last is not None
    return last


def _exit_with(ended: Rollout) -> None:
    from mlxmesh.model.v1.rollout_pb2 import ROLLOUT_STATE_PROMOTED

    if ended.state != ROLLOUT_STATE_PROMOTED:
        raise typer.Exit(1)
