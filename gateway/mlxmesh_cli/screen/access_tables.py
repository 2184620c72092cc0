"""Tables of users, keys, quotas, usage and the audit log; rows are those that --json prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.text import Text

from mlxmesh_cli.screen.grid import Column, Grid

MIN_NAME_CELLS, MIN_DETAILS_CELLS = 12, 20

Row = Mapping[str, Any]

_LIMITS = {
    "requests_per_minute": ("requests/min", "requests_this_minute"),
    "tokens_per_minute": ("tokens/min", "tokens_this_minute"),
    "tokens_per_day": ("tokens/day", "tokens_this_day"),
    "tokens_per_month": ("tokens/month", "tokens_this_month"),
    "concurrent_generations": ("concurrent", ""),
}
_AMOUNTS = {
    "requests": "requests",
    "errors": "errors",
    "prompt_tokens": "prompt",
    "cached_tokens": "cached",
    "completion_tokens": "completion",
}


def users_table(users: Sequence[Row]) -> Grid:
    """One row per user."""
    table = Grid(
        Column("user"),
        Column("kind", drop=3),
        Column("state"),
        Column("role"),
        Column("team", drop=1, rare=True),
        Column("created", drop=4),
        Column("last sign-in", drop=2),
    )
    for user in users:
        table.add(
            user["name"],
            _words(user["kind"]),
            _state(user["state"]),
            user["role"],
            user["team"],
            _time(user, "created"),
            _time(user, "last_sign_in"),
        )
    return table


def user_view(facts: Row) -> Group:
    """A user, its keys and its quota, one table above the other."""
    parts: list[Any] = [users_table([facts["user"]])]
    if facts["keys"]:
        parts += ["", keys_table(facts["keys"])]
    if facts["quotas"]:
        parts += ["", quotas_table(facts["quotas"])]
    return Group(*parts)


def keys_table(keys: Sequence[Row]) -> Grid:
    """One row per key."""
    table = Grid(
        Column("key"),
        Column("name", min_cells=MIN_NAME_CELLS),
        Column("begins", drop=4),
        Column("user", drop=1),
        Column("role", drop=5),
        Column("models", drop=6),
        Column("created", drop=7),
        Column("expires", drop=3),
        Column("last used", drop=2),
        Column("revoked", drop=2, rare=True),
    )
    for key in keys:
        times = [_time(key, name) for name in ("created", "expires", "last_used", "revoked")]
        models = " ".join(key["models"]) or "all"
        table.add(
            key["key_id"], key["name"], key["prefix"], key["user"], key["role"], models, *times
        )
    return table


def quotas_table(quotas: Sequence[Row]) -> Grid:
    """One row per quota; a limit as used/limit."""
    names = [Column(name, drop=1 + at, right=True, rare=True) for at, (name, _) in _numbered()]
    table = Grid(Column("subject"), *names)
    for quota in quotas:
        limits, used = quota["limits"], quota.get("used", {})
        cells = [_limit(limits, used, name) for name in _LIMITS]
        table.add(subject_words(quota["subject"]), *cells)
    return table


def subject_words(subject: Row) -> str:
    """user:ada, team:research or key:k_1a2b3c."""
    kind, name = next(iter(subject.items()), ("", ""))
    return f"{kind.removesuffix('_id')}:{name}"


def usage_table(rows: Sequence[Row], groups: Sequence[str]) -> Grid:
    """One row per group, then their total."""
    amounts = [
        Column(name, drop=drop, right=True)
        for name, drop in zip(_AMOUNTS.values(), (0, 3, 2, 5, 1), strict=True)
    ]
    table = Grid(
        *(Column(group) for group in groups), *amounts, Column("device s", drop=4, right=True)
    )
    for row in rows:
        table.add(*(_GROUPS[group](row) for group in groups), *_amounts([row]))
    if groups and len(rows) > 1:
        table.add("total", *([""] * (len(groups) - 1)), *_amounts(rows))
    return table


def audit_table(entries: Sequence[Row]) -> Grid:
    """One row per entry."""
    table = Grid(
        Column("time", drop=1),
        Column("actor"),
        Column("action"),
        Column("target", drop=2),
        Column("details", drop=3, min_cells=MIN_DETAILS_CELLS, rare=True),
    )
    for entry in entries:
        table.add(
            _time(entry, "time", seconds=True),
            entry["actor"],
            entry["action"],
            entry["target"],
            entry["details"],
        )
    return table


def _model(row: Row) -> str:
    if not row["model"]:
        return "-"
    return f"{row['model']}@{row['model_version']}" if row["model_version"] else row["model"]


_GROUPS: Mapping[str, Callable[[Row], str]] = {
    "key": lambda row: row["key_id"] or "-",
    "user": lambda row: row["user"] or "-",
    "team": lambda row: row["team"] or "-",
    "model": _model,
    "hour": lambda row: _utc(row)[:16],
    "day": lambda row: _utc(row)[:10],
}


def _utc(row: Row) -> str:
    return str(row.get("time", "")).replace("T", " ")


def _amounts(rows: Sequence[Row]) -> list[str]:
    amounts = [row.get("amounts", {}) for row in rows]
    sums = [sum(int(each.get(name, 0)) for each in amounts) for name in _AMOUNTS]
    device_s = sum(float(each.get("device_s", 0)) for each in amounts)
    return [*(f"{total:,}" for total in sums), f"{device_s:,.1f}"]


def _numbered() -> list[tuple[int, tuple[str, str]]]:
    return list(enumerate(_LIMITS.values()))


def _limit(limits: Row, used: Row, name: str) -> str:
    if name not in limits:
        return ""
    use = _LIMITS[name][1]
    limit = f"{int(limits[name]):,}"
    return f"{int(used.get(use, 0)):,}/{limit}" if use else limit


def _words(word: str) -> str:
    return word.replace("_", " ")


def _state(state: str) -> Text:
    return Text(state, style="" if state == "active" else "yellow")


def _time(row: Row, name: str, *, seconds: bool = False) -> str:
    """A time in this machine's time zone; empty where there is none."""
    if not row.get(name):
        return ""
    local = datetime.fromisoformat(row[name]).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
