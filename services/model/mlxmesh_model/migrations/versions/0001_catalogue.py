"""The first tables of the catalogue."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, primary_key=primary_key)


def _number(name: str, *, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, primary_key=primary_key)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _failure() -> list[sa.Column[int] | sa.Column[str]]:
    return [_number("failure_code"), _text("failure_reason"), _text("failure_message")]


def _of_version() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["model", "number"], ["versions.model", "versions.number"], ondelete="CASCADE"
    )


def upgrade() -> None:
    """Creates the tables."""
    _models()
    _replicas_and_aliases()
    _changes()


def _models() -> None:
    op.create_table(
        "models", _text("name", primary_key=True), _big("sequence"), _number("last_version")
    )
    op.create_index("ix_models_sequence", "models", ["sequence"])
    op.create_table(
        "versions",
        _text("model", primary_key=True),
        _number("number", primary_key=True),
        *map(_text, ["state", "source_directory", "hub_id", "revision", "commit"]),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *map(_text, ["directory", "digest", "architecture"]),
        *map(_big, ["parameters", "weights_bytes"]),
        _text("dtype"),
        *map(_big, ["context_tokens", "vocab_size"]),
        *map(_number, ["desired_replicas", "intent"]),
        *_failure(),
        sa.ForeignKeyConstraint(["model"], ["models.name"], ondelete="CASCADE"),
    )


def _replicas_and_aliases() -> None:
    op.create_table(
        "aliases",
        _text("model", primary_key=True),
        _text("alias", primary_key=True),
        _number("number"),
        _of_version(),
    )
    op.create_table(
        "replicas",
        _text("engine_id", primary_key=True),
        _text("model"),
        _number("number"),
        *map(_text, ["runtime_id", "phase"]),
        *_failure(),
        _of_version(),
    )
    op.create_index("ix_replicas_model", "replicas", ["model"])


def _changes() -> None:
    op.create_table("tombstones", _text("name", primary_key=True), _big("sequence"))
    op.create_index("ix_tombstones_sequence", "tombstones", ["sequence"])
    counter = op.create_table("change_counter", _text("name", primary_key=True), _big("value"))
    op.bulk_insert(counter, [{"name": "changes", "value": 0}])


def downgrade() -> None:
    """Drops the tables and their contents."""
    for table in ["change_counter", "tombstones", "replicas", "aliases", "versions", "models"]:
        op.drop_table(table)
