"""Converts rows of the catalogue to domain objects and back."""

from collections.abc import Iterable
from datetime import UTC, datetime

from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import (
    Artifact,
    FailureRecord,
    Model,
    Phase,
    Replica,
    Source,
    Version,
)
from mlxmesh_model.catalogue.tables import AliasRow, ModelRow, ReplicaRow, VersionRow


def to_model(
    row: ModelRow,
    *,
    versions: Iterable[VersionRow],
    aliases: Iterable[AliasRow],
    replicas: Iterable[ReplicaRow],
) -> Model:
    """A model from its rows: versions ordered by number, replicas by engine id."""
    by_number: dict[int, list[Replica]] = {}
    for replica in replicas:
        by_number.setdefault(replica.number, []).append(_to_replica(replica))
    return Model(
        name=row.name,
        versions=tuple(_to_version(v, tuple(by_number.get(v.number, ()))) for v in versions),
        aliases={alias.alias: alias.number for alias in aliases},
        sequence=row.sequence,
    )


def _to_version(row: VersionRow, replicas: tuple[Replica, ...]) -> Version:
    return Version(
        model=row.model,
        number=row.number,
        state=State(row.state),
        source=Source(
            directory=row.source_directory,
            repo_id=row.repo_id,
            revision=row.revision,
            commit=row.commit,
            file=row.source_file,
            dtype=row.source_dtype,
        ),
        created_at=_utc(row.created_at),
        artifact=_to_artifact(row) if row.digest else None,
        desired_replicas=row.desired_replicas,
        replicas=replicas,
        failure=_to_failure(row),
        intent=row.intent,
    )


def _utc(moment: datetime) -> datetime:
    """SQLite does not store the time zone; every time in the catalogue is UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _to_artifact(row: VersionRow) -> Artifact:
    return Artifact(
        directory=row.directory,
        digest=row.digest,
        architecture=row.architecture,
        parameters=row.parameters,
        weights_bytes=row.weights_bytes,
        dtype=row.dtype,
        context_tokens=row.context_tokens,
        vocab_size=row.vocab_size,
    )


def _to_replica(row: ReplicaRow) -> Replica:
    return Replica(row.engine_id, row.runtime_id, Phase(row.phase), _to_failure(row))


def _to_failure(row: VersionRow | ReplicaRow) -> FailureRecord | None:
    if not row.failure_reason:
        return None
    return FailureRecord(row.failure_code, row.failure_reason, row.failure_message)


def new_version_row(model: str, number: int, source: Source) -> VersionRow:
    """A version with only its source set."""
    row = VersionRow(
        model=model,
        number=number,
        state=State.PULLING.value,
        created_at=datetime.now(UTC),
        desired_replicas=0,
        intent=0,
    )
    set_source(row, source)
    set_artifact(row, Artifact("", "", "", 0, 0, "", 0, 0))
    set_failure(row, None)
    return row


def new_replica_row(version: Version, replica: Replica) -> ReplicaRow:
    """A replica of a version."""
    row = ReplicaRow(
        engine_id=replica.engine_id,
        model=version.model,
        number=version.number,
        runtime_id=replica.runtime_id,
        phase=replica.phase.value,
    )
    set_failure(row, replica.failure)
    return row


def set_source(row: VersionRow, source: Source) -> None:
    """Sets the origin of a version."""
    row.source_directory = source.directory
    row.source_file, row.source_dtype = source.file, source.dtype
    row.repo_id, row.revision, row.commit = source.repo_id, source.revision, source.commit


def set_artifact(row: VersionRow, artifact: Artifact) -> None:
    """Sets the properties of the files on disk."""
    row.directory, row.digest = artifact.directory, artifact.digest
    row.architecture, row.dtype = artifact.architecture, artifact.dtype
    row.parameters, row.weights_bytes = artifact.parameters, artifact.weights_bytes
    row.context_tokens, row.vocab_size = artifact.context_tokens, artifact.vocab_size


def set_failure(row: VersionRow | ReplicaRow, failure: FailureRecord | None) -> None:
    """Sets the failure, or clears it."""
    record = failure or FailureRecord(0, "", "")
    row.failure_code, row.failure_reason = record.code, record.reason
    row.failure_message = record.message
