"""The options of `mlxmesh models set` that make a policy, and how a policy is shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlxmesh.model.v1.policy_pb2 import ModelPolicy

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PRICES = {
    "price_prompt": "per_million_prompt_tokens",
    "price_cached": "per_million_cached_tokens",
    "price_completion": "per_million_completion_tokens",
    "price_second": "per_device_second",
}
"""The fields of a price, by the names of their options."""

_PANEL = "Loading, scaling and unloading; for every version"
_PRICE = "Price, in units of your currency; for every version"
OnDemand = Annotated[
    bool | None,
    typer.Option(
        "--load-on-demand/--no-load-on-demand",
        help="Whether a request loads a version that is not loaded.",
        rich_help_panel=_PANEL,
    ),
]
LoadTimeout = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="How long a request waits for such a load, for example 90s.",
        rich_help_panel=_PANEL,
    ),
]
Idle = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Unload a version that no request used for so long, for example 15m; 0 for never.",
        rich_help_panel=_PANEL,
    ),
]
Pin = Annotated[
    bool | None,
    typer.Option(
        "--pin/--no-pin",
        help="Whether loaded versions stay loaded when they are idle or memory is short.",
        rich_help_panel=_PANEL,
    ),
]
MinReplicas = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=64,
        help="Replicas of the default version that are always loaded.",
        rich_help_panel=_PANEL,
    ),
]
MaxReplicas = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=64,
        help="Most replicas that queues add to a version; 0: queues add none.",
        rich_help_panel=_PANEL,
    ),
]


def _price(what: str) -> Any:
    return typer.Option(metavar="AMOUNT", min=0, max=1e6, help=what, rich_help_panel=_PRICE)


PricePrompt = Annotated[float | None, _price("A million prompt tokens.")]
PriceCached = Annotated[float | None, _price("A million prompt tokens from the prefix cache.")]
PriceCompletion = Annotated[float | None, _price("A million generated tokens.")]
PriceSecond = Annotated[float | None, _price("A second of an engine's time.")]


def parse_seconds(text: str, option: str) -> int:
    """Whole seconds of a time such as 90s, 15m, 2h or 0. Raises: BadParameter."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if match is None:
        raise typer.BadParameter(
            f"must be a time such as 90s, 15m, 2h or 1d, not {text}", param_hint=option
        )
    return int(match[1]) * _UNITS_S[match[2] or "s"]


def policy_changes(given: dict[str, Any], current: ModelPolicy) -> ModelPolicy:
    """The message for the options that were given; a price keeps its other parts."""
    from mlxmesh.model.v1.policy_pb2 import ModelPolicy

    prices = {PRICES[name]: given.pop(name) for name in tuple(given) if name in PRICES}
    policy = ModelPolicy(**given)
    if prices:
        policy.price.CopyFrom(current.price)
        for name, amount in prices.items():
            setattr(policy.price, name, amount)
    return policy


def policy_lines(policy: ModelPolicy) -> Iterator[str]:
    """A policy in words; what is not set has its default."""
    on_demand = "by the mesh's setting"
    if policy.HasField("load_on_demand"):
        on_demand = "yes" if policy.load_on_demand else "no"
    timeout_s = policy.load_timeout_s or 300
    yield f"on demand   {on_demand}; requests wait up to {timeout_s} s for a load"
    if policy.pinned:
        yield "unload      never by itself: it is pinned"
    else:
        idle = policy.idle_unload_s
        when = f"after {idle} s without a request, and" if idle else "only"
        yield f"unload      {when} to make room for others"
    most = f"up to {policy.max_replicas} by queues" if policy.max_replicas else "none by queues"
    yield f"replicas    at least {policy.min_replicas}; {most}"
    if policy.HasField("price"):
        parts = (f"{name} {getattr(policy.price, field):g}" for name, field in PRICES.items())
        yield f"price       {', '.join(part.removeprefix('price_') for part in parts)}"
