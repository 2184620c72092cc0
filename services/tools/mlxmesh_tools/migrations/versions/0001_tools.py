"""The first tables of the tools service.

Times are milliseconds since 1970 in UTC, and 0 where there is none. Secrets of MCP servers are
encrypted; of calls, only sizes and hashes of arguments and results are stored.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, primary_key=primary_key)


def _big(name: str, *, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(
        name, sa.BigInteger(), nullable=False, primary_key=primary_key, autoincrement=False
    )


def _real(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double(), nullable=False)


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "servers",
        _text("name", primary_key=True),
        *map(_text, ["kind", "command", "directory", "url"]),
        sa.Column("secrets", sa.LargeBinary(), nullable=False),
        *map(_big, ["access", "timeout_ms", "max_result_bytes", "max_calls_at_once"]),
        *map(_big, ["default_approval", "disabled", "created_ms", "revision"]),
    )
    op.create_table(
        "policies",
        _text("server", primary_key=True),
        _text("tool", primary_key=True),
        _big("approval"),
        _text("definition"),
        sa.ForeignKeyConstraint(["server"], ["servers.name"], ondelete="CASCADE"),
    )
    op.create_table(
        "calls",
        _text("call_id", primary_key=True),
        _big("time_ms"),
        *map(_text, ["principal", "server", "tool"]),
        *map(_big, ["approved", "arguments_bytes"]),
        _text("arguments_sha256"),
        _big("result_bytes"),
        _text("result_sha256"),
        _real("duration_ms"),
        *map(_big, ["is_error", "failure_code"]),
        *map(_text, ["failure_reason", "failure_message", "request_id"]),
    )
    op.create_index("ix_calls_time", "calls", ["time_ms", "call_id"])
    op.create_index("ix_calls_principal", "calls", ["principal", "time_ms", "call_id"])
    op.create_index("ix_calls_server", "calls", ["server", "time_ms", "call_id"])
    op.create_table(
        "audit_outbox",
        _big("number", primary_key=True),
        _big("time_ms"),
        *map(_text, ["actor", "action", "target", "details"]),
    )
    counters = op.create_table("counters", _text("name", primary_key=True), _big("value"))
    op.bulk_insert(counters, [{"name": "audit", "value": 0}, {"name": "revision", "value": 0}])
