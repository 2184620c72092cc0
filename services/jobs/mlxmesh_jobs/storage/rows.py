"""Statements on many rows, of few different lengths: both kinds of database keep them prepared."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from mlxmesh_shared.sql.database import Row, Session, Value
from mlxmesh_shared.sql.statements import value_rows

_LARGEST = 128
_Item = TypeVar("_Item")


def chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """The items in parts whose lengths are powers of two."""
    start = 0
    while start < len(items):
        size = min(_LARGEST, 1 << ((len(items) - start).bit_length() - 1))
        yield items[start : start + size]
        start += size


async def insert(
    session: Session,
    table: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Value]],
    ending: str = "",
) -> list[Row]:
    """Inserts rows; returns what the statement's ending does."""
    found: list[Row] = []
    for part in chunks(rows):
        values = [value for row in part for value in row]
        sql = (
            f"INSERT INTO {table} ({', '.join(columns)})"  # noqa: S608
            f" VALUES {value_rows(len(part), len(columns))} {ending}"
        )
        found += await session.fetch(sql, *values)
    return found


async def update(
    session: Session,
    table: str,
    columns: Mapping[str, str],
    rows: Sequence[Sequence[Value]],
    *,
    add: frozenset[str] = frozenset(),
) -> None:
    """Changes the rows whose first column has the first value.

    columns: with their types.
    add: columns to whose values these are added; the others are replaced.
    """
    key, *others = columns
    changes = ", ".join(
        f"{name} = {f'{table}.{name} + ' if name in add else ''}v.column{number}"
        for number, name in enumerate(others, 2)
    )
    for part in chunks(rows):
        first = [f"CAST(${i} AS {type_})" for i, type_ in enumerate(columns.values(), 1)]
        values = f"({', '.join(first)})"
        if len(part) > 1:
            values += ", " + value_rows(len(part) - 1, len(columns), first=len(columns) + 1)
        await session.fetch(
            f"UPDATE {table} SET {changes} FROM (VALUES {values}) AS v"  # noqa: S608
            f" WHERE {table}.{key} = v.column1",
            *(value for row in part for value in row),
        )


async def select(session: Session, sql: str, wanted: Sequence[Value], *values: Value) -> list[Row]:
    """The rows of a statement for each part of what is wanted, whose place in it is `{wanted}`.

    values: bound to $1 and so on; what is wanted follows.
    """
    found: list[Row] = []
    for start in range(0, len(wanted), _LARGEST):
        part = list(wanted[start : start + _LARGEST])
        # A value that is repeated finds nothing more.
        part += part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))
        names = ", ".join(
            f"${number}" for number in range(len(values) + 1, len(values) + 1 + len(part))
        )
        found += await session.fetch(sql.replace("{wanted}", names), *values, *part)
    return found
