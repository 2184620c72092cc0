"""The first tables of the access service.

Times are milliseconds since 1970 in UTC, and 0 where there is none: both kinds of database compare
and group them in the same way. Keys and refresh tokens are stored as SHA-256 only.
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
    column_type = sa.BigInteger()
    return sa.Column(
        name, column_type, nullable=False, primary_key=primary_key, autoincrement=False
    )


def _bytes(name: str, *, primary_key: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False, primary_key=primary_key)


def _of_user() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["user_name"], ["users.name"], ondelete="CASCADE")


def upgrade() -> None:
    """Creates the tables."""
    _accounts()
    _sessions()
    _quotas()
    _usage()
    _audit()
    counters = op.create_table("counters", _text("name", primary_key=True), _big("value"))
    op.bulk_insert(counters, [{"name": "audit", "value": 0}, {"name": "revision", "value": 0}])


def _accounts() -> None:
    op.create_table(
        "users",
        _text("name", primary_key=True),
        *map(_text, ["kind", "state", "role", "team", "password_hash"]),
        *map(_text, ["oidc_issuer", "oidc_subject"]),
        *map(_big, ["created_ms", "last_sign_in_ms", "tokens_valid_from_ms"]),
    )
    op.create_index("ix_users_oidc", "users", ["oidc_issuer", "oidc_subject"])
    op.create_table(
        "keys",
        _text("key_id", primary_key=True),
        *map(_text, ["name", "prefix"]),
        _bytes("sha256"),
        *map(_text, ["user_name", "role", "models"]),
        *map(_big, ["created_ms", "expires_ms", "last_used_ms", "revoked_ms"]),
        _of_user(),
        sa.UniqueConstraint("prefix"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_index("ix_keys_user_name", "keys", ["user_name"])


def _sessions() -> None:
    op.create_table(
        "sessions",
        _text("session_id", primary_key=True),
        _text("user_name"),
        *map(_bytes, ["family_sha256", "secret_sha256"]),
        *map(_big, ["created_ms", "refreshed_ms", "expires_ms"]),
        _of_user(),
    )
    op.create_index("ix_sessions_user_name", "sessions", ["user_name"])
    op.create_index("ix_sessions_expires_ms", "sessions", ["expires_ms"])
    op.create_table(
        "signing_keys",
        _text("key_id", primary_key=True),
        # A JSON Web Key, and the private key, encrypted with a key that is not in the database.
        _text("public_jwk"),
        _bytes("encrypted_private_key"),
        *map(_big, ["created_ms", "signs_until_ms", "expires_ms"]),
    )
    op.create_table(
        "oidc_states",
        _bytes("state_sha256", primary_key=True),
        # The nonce and the code verifier, encrypted with the state, of which only the hash is here.
        _bytes("encrypted_secrets"),
        _text("redirect_uri"),
        _big("expires_ms"),
    )


def _quotas() -> None:
    op.create_table(
        "quotas",
        _text("subject_kind", primary_key=True),
        _text("subject", primary_key=True),
        *map(_big, ["requests_per_minute", "tokens_per_minute", "tokens_per_day"]),
        *map(_big, ["concurrent_generations", "tokens_per_month"]),
    )
    op.create_table(
        "quota_windows",
        _text("subject_kind", primary_key=True),
        _text("subject", primary_key=True),
        _text("limit_kind", primary_key=True),
        *map(_big, ["starts_ms", "spent"]),
        _of_quota(),
    )
    op.create_table(
        "quota_slices",
        _text("subject_kind", primary_key=True),
        _text("subject", primary_key=True),
        _text("limit_kind", primary_key=True),
        _text("gateway_id", primary_key=True),
        *map(_big, ["starts_ms", "held", "wanted", "valid_until_ms"]),
        _of_quota(),
    )


def _of_quota() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["subject_kind", "subject"], ["quotas.subject_kind", "quotas.subject"], ondelete="CASCADE"
    )


def _usage() -> None:
    op.create_table(
        "usage",
        _text("principal", primary_key=True),
        *(_text(name, primary_key=True) for name in ("key_id", "user_name", "team", "model")),
        *(_big(name, primary_key=True) for name in ("model_version", "hour_ms")),
        *map(_big, ["requests", "errors", "prompt_tokens", "cached_tokens"]),
        *map(_big, ["completion_tokens", "device_us"]),
    )
    op.create_index("ix_usage_hour_ms", "usage", ["hour_ms"])
    op.create_index("ix_usage_user_name", "usage", ["user_name", "hour_ms"])
    op.create_table("usage_batches", _text("batch_id", primary_key=True), _big("recorded_ms"))
    op.create_index("ix_usage_batches_recorded_ms", "usage_batches", ["recorded_ms"])


def _audit() -> None:
    op.create_table(
        "audit_entries",
        _big("number", primary_key=True),
        _big("time_ms"),
        *map(_text, ["actor", "action", "target", "details"]),
    )
    op.create_index("ix_audit_entries_actor", "audit_entries", ["actor", "number"])
    op.create_index("ix_audit_entries_time_ms", "audit_entries", ["time_ms"])


def downgrade() -> None:
    """Drops the tables and their contents."""
    tables = ["audit_entries", "usage_batches", "usage", "quota_slices", "quota_windows", "quotas"]
    tables += ["oidc_states", "signing_keys", "sessions"]
    for table in [*tables, "keys", "users", "counters"]:
        op.drop_table(table)
