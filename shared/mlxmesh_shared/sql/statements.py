"""Statements that both kinds of database accept."""

from collections.abc import Iterator, Sequence


def upsert(
    table: str,
    columns: Sequence[str],
    key: Sequence[str],
    *,
    rows: int = 1,
    add: Sequence[str] = (),
) -> str:
    """A statement that inserts rows, or changes the one with the same key.

    The values of all rows are bound one after another; no two of the rows may have the same key.
    add: columns whose value is added to the present one; the others are replaced.
    """
    # Quoted: SQL has words such as `commit` too.
    names = ", ".join(f'"{column}"' for column in columns)
    changes = ", ".join(
        f'"{name}" = {table}."{name}" + excluded."{name}"'
        if name in add
        else f'"{name}" = excluded."{name}"'
        for name in columns
        if name not in key
    )
    return (
        f"INSERT INTO {table} ({names}) VALUES {value_rows(rows, len(columns))}"  # noqa: S608
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
    )


def value_rows(rows: int, columns: int, *, first: int = 1) -> str:
    """Rows of bound values: ($1, $2), ($3, $4) and so on."""
    return ", ".join(_rows(rows, columns, first))


def _rows(rows: int, columns: int, first: int) -> Iterator[str]:
    for start in range(first, first + rows * columns, columns):
        yield "(" + ", ".join(f"${number}" for number in range(start, start + columns)) + ")"
