"""Converts rows of the catalogue to domain objects, and domain objects to the values of rows."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple
from datetime import UTC, datetime

from mlxmesh_model.catalogue.adapter import Adapter
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import (
    Artifact,
    FailureRecord,
    Model,
    ModelKind,
    OutputFormats,
    Phase,
    Replica,
    Source,
    Version,
)
from mlxmesh_model.catalogue.routing import Arm, Policy, Price, Shadow, Split, Subject
from mlxmesh_model.catalogue.upstream import Upstream
from mlxmesh_model.profiles.queries import settings_text, to_settings
from mlxmesh_shared.sql.database import Row, Value

VERSION_COLUMNS = (
    "model",
    "number",
    "state",
    "source_directory",
    "repo_id",
    "revision",
    "commit",
    "source_file",
    "source_dtype",
    "source_kind",
    "created_at",
    "directory",
    "digest",
    "architecture",
    "parameters",
    "weights_bytes",
    "dtype",
    "context_tokens",
    "vocab_size",
    "kind",
    "dimensions",
    "desired_replicas",
    "intent",
    "tool_format",
    "reasoning_format",
    "profile",
    "profile_revision",
    "selected",
    "profile_settings",
    "upstream",
    "failure_code",
    "failure_reason",
    "failure_message",
)
REPLICA_COLUMNS = (
    "engine_id",
    "model",
    "number",
    "runtime_id",
    "settings_id",
    "phase",
    "failure_code",
    "failure_reason",
    "failure_message",
)
ADAPTER_COLUMNS = (
    "model",
    "name",
    "digest",
    "directory",
    "format",
    "rank",
    "weights_bytes",
    "modules",
    "created_at",
)
_NOTHING_ON_DISK = Artifact("", "", "", 0, 0, "", 0, 0)
_NO_FAILURE = FailureRecord(0, "", "")


def to_model(
    row: Row,
    *,
    versions: Iterable[Row],
    aliases: Iterable[Row],
    replicas: Iterable[Row],
    splits: Iterable[Row],
    shadows: Iterable[Row],
    artifact_checks: Iterable[Row],
    adapters: Iterable[Row] = (),
) -> Model:
    """A model from its rows: versions ordered by number, replicas by engine id."""
    by_number: dict[int, list[Replica]] = {}
    for replica in replicas:
        by_number.setdefault(replica["number"], []).append(_to_replica(replica))
    damaged = {check["number"]: json.loads(check["damaged_files"]) for check in artifact_checks}
    return Model(
        name=row["name"],
        versions=tuple(
            _to_version(v, tuple(by_number.get(v["number"], ())), damaged.get(v["number"], ()))
            for v in versions
        ),
        aliases={alias["alias"]: alias["number"] for alias in aliases},
        sequence=row["sequence"],
        policy=to_policy(row["policy"]),
        splits={split["alias"]: to_split(split["content"]) for split in splits},
        shadows=tuple(_to_shadow(shadow) for shadow in shadows if shadow["ended_at"] is None),
        ensemble=row["ensemble"],
        adapters={adapter["name"]: to_adapter(adapter) for adapter in adapters},
    )


def policy_text(policy: Policy) -> str:
    """A policy as it is stored: JSON without what is not set."""
    return json.dumps({name: value for name, value in asdict(policy).items() if value is not None})


def to_policy(text: str) -> Policy:
    """A policy from its stored form."""
    stored = json.loads(text)
    price = stored.pop("price", None)
    return Policy(**stored, price=Price(**price) if price else None)


def split_text(split: Split) -> str:
    """A split as it is stored: JSON."""
    return json.dumps(asdict(split))


def to_split(text: str) -> Split:
    """A split from its stored form."""
    stored = json.loads(text)
    arms = tuple(Arm(**arm) for arm in stored.pop("arms"))
    return Split(arms=arms, subject=Subject(stored.pop("subject")), **stored)


def _to_shadow(row: Row) -> Shadow:
    return Shadow(row["shadow_id"], row["from_version"], row["to_version"], row["percent"])


def version_values(version: Version) -> Sequence[Value]:
    """The values of VERSION_COLUMNS."""
    return (
        version.model,
        version.number,
        version.state.value,
        *astuple(version.source),
        version.created_at,
        *astuple(version.artifact or _NOTHING_ON_DISK),
        version.desired_replicas,
        version.intent,
        *astuple(version.formats),
        version.profile,
        version.profile_revision,
        int(version.selected),
        settings_text(version.settings),
        json.dumps(version.upstream.stored) if version.upstream else "",
        *astuple(version.failure or _NO_FAILURE),
    )


def replica_values(version: Version, replica: Replica) -> Sequence[Value]:
    """The values of REPLICA_COLUMNS."""
    return (
        replica.engine_id,
        version.model,
        version.number,
        replica.runtime_id,
        replica.settings_id,
        replica.phase.value,
        *astuple(replica.failure or _NO_FAILURE),
    )


def adapter_values(adapter: Adapter) -> Sequence[Value]:
    """The values of ADAPTER_COLUMNS."""
    values = asdict(adapter) | {"modules": json.dumps(adapter.modules)}
    return [values[column] for column in ADAPTER_COLUMNS]


def to_adapter(row: Row) -> Adapter:
    """An adapter from its row."""
    values = {column: row[column] for column in ADAPTER_COLUMNS}
    values["modules"] = tuple(json.loads(row["modules"]))
    values["created_at"] = to_moment(row["created_at"])
    return Adapter(**values)


def _to_version(row: Row, replicas: tuple[Replica, ...], damaged: Iterable[str]) -> Version:
    return Version(
        model=row["model"],
        number=row["number"],
        state=State(row["state"]),
        source=Source(
            directory=row["source_directory"],
            repo_id=row["repo_id"],
            revision=row["revision"],
            commit=row["commit"],
            file=row["source_file"],
            dtype=row["source_dtype"],
            kind=row["source_kind"],
        ),
        created_at=to_moment(row["created_at"]),
        artifact=_to_artifact(row) if row["digest"] else None,
        desired_replicas=row["desired_replicas"],
        replicas=replicas,
        failure=_to_failure(row),
        intent=row["intent"],
        formats=OutputFormats(row["tool_format"], row["reasoning_format"]),
        profile=row["profile"],
        profile_revision=row["profile_revision"],
        selected=bool(row["selected"]),
        damaged_files=tuple(damaged),
        settings=to_settings(row["profile_settings"]),
        upstream=Upstream.of(json.loads(row["upstream"])) if row["upstream"] else None,
    )


def to_moment(stored: datetime | str) -> datetime:
    """A stored time. SQLite stores text without a time zone; every time in the catalogue is UTC."""
    moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _to_artifact(row: Row) -> Artifact:
    return Artifact(
        directory=row["directory"],
        digest=row["digest"],
        architecture=row["architecture"],
        parameters=row["parameters"],
        weights_bytes=row["weights_bytes"],
        dtype=row["dtype"],
        context_tokens=row["context_tokens"],
        vocab_size=row["vocab_size"],
        kind=ModelKind(row["kind"]),
        dimensions=row["dimensions"],
    )


def _to_replica(row: Row) -> Replica:
    phase = Phase(row["phase"])
    failure = _to_failure(row)
    return Replica(row["engine_id"], row["runtime_id"], phase, failure, row["settings_id"])


def _to_failure(row: Row) -> FailureRecord | None:
    if not row["failure_reason"]:
        return None
    return FailureRecord(row["failure_code"], row["failure_reason"], row["failure_message"])
