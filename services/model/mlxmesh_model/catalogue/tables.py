"""The catalogue's tables, as created by `migrations/`."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, ForeignKey, ForeignKeyConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base class of all tables."""


class ModelRow(Base):
    """A model; `sequence` numbers its last change, `last_version` is never used again."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, index=True)
    last_version: Mapped[int]


class VersionRow(Base):
    """A version; the columns of its artifact are empty until it is on disk."""

    __tablename__ = "versions"

    model: Mapped[str] = mapped_column(
        ForeignKey("models.name", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    source_directory: Mapped[str]
    source_file: Mapped[str]
    source_dtype: Mapped[str]
    repo_id: Mapped[str]
    revision: Mapped[str]
    commit: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    directory: Mapped[str]
    digest: Mapped[str]
    architecture: Mapped[str]
    parameters: Mapped[int] = mapped_column(BigInteger)
    weights_bytes: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str]
    context_tokens: Mapped[int] = mapped_column(BigInteger)
    vocab_size: Mapped[int] = mapped_column(BigInteger)
    desired_replicas: Mapped[int]
    intent: Mapped[int]
    failure_code: Mapped[int]
    failure_reason: Mapped[str]
    failure_message: Mapped[str]


class AliasRow(Base):
    """An alias of a version."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model", "number"], ["versions.model", "versions.number"], ondelete="CASCADE"
        ),
    )

    model: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]


class ReplicaRow(Base):
    """An engine of a version, and the runtime it was placed on."""

    __tablename__ = "replicas"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model", "number"], ["versions.model", "versions.number"], ondelete="CASCADE"
        ),
    )

    engine_id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(index=True)
    number: Mapped[int]
    runtime_id: Mapped[str]
    phase: Mapped[str]
    failure_code: Mapped[int]
    failure_reason: Mapped[str]
    failure_message: Mapped[str]


class TombstoneRow(Base):
    """A removed model. It tells watchers that were disconnected of the removal, and its version
    numbers are not used again.
    """

    __tablename__ = "tombstones"

    name: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, index=True)
    last_version: Mapped[int] = mapped_column(server_default="0")


class CounterRow(Base):
    """The sequence number of the last change; one row, whose value never decreases."""

    __tablename__ = "change_counter"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
