"""The catalogue's domain objects: models, versions and replicas. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mlxmesh_model.catalogue.adapter import Adapter
from mlxmesh_model.catalogue.lifecycle import ON_DISK, State, state_of
from mlxmesh_model.catalogue.routing import Policy, Shadow, Split
from mlxmesh_model.catalogue.upstream import Upstream
from mlxmesh_model.profiles.profile import DEFAULT as DEFAULT_PROFILE
from mlxmesh_model.profiles.profile import NO_SETTINGS, EngineProfile, Profile
from mlxmesh_shared.errors import (
    AdapterNotFound,
    DiskFull,
    FetchFailed,
    MeshError,
    ModelFilesDamaged,
    ModelNotFound,
)
from mlxmesh_shared.reference import ModelReference

DEFAULT_ALIAS = "default"
PLACEMENT_RETRY_S = 10.0
"""How long to wait before runtimes are asked again for a replica that all of them rejected."""
FETCH_RETRY_S = 60.0
"""The longest delay before a replica whose host could not fetch the files is started again."""
_FETCH_FAILURES = (FetchFailed.reason, DiskFull.reason)


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """A stored failure: a gRPC code number, a stable reason and one sentence."""

    code: int
    reason: str
    message: str

    @classmethod
    def of(cls, error: MeshError) -> "FailureRecord":
        """The record of an error."""
        return cls(error.code.value[0], error.reason, error.message)


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of a version: a directory; a GGUF file and the requested dtype; or a repository at
    a hub with its revision and commit and, for a GGUF file, the file name.
    """

    directory: str = ""
    repo_id: str = ""
    revision: str = ""
    commit: str = ""
    file: str = ""
    dtype: str = ""
    kind: str = ""
    """The requested kind of a download; empty where its files decide."""

    def __str__(self) -> str:
        if not self.repo_id:
            return self.directory or self.file
        path = f"{self.repo_id}/{self.file}" if self.file else self.repo_id
        return f"{path}@{self.revision}"

    def is_like(self, other: "Source") -> bool:
        """Whether both have the same repository, file, dtype and kind, at any revision."""
        mine = (self.repo_id, self.file, self.dtype, self.kind)
        return mine == (other.repo_id, other.file, other.dtype, other.kind)


class ModelKind(StrEnum):
    """What a version serves; the values are stored, and those of an engine's option `kind`."""

    GENERATION = "generation"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    VISION = "vision"


@dataclass(frozen=True, slots=True)
class Artifact:
    """The properties of a model directory."""

    directory: str
    digest: str
    architecture: str
    parameters: int
    weights_bytes: int
    dtype: str
    context_tokens: int
    vocab_size: int
    kind: ModelKind = ModelKind.GENERATION
    dimensions: int = 0
    """The length of its vectors; 0 unless it is of the kind embedding."""


class Phase(StrEnum):
    """The phase of a replica, as its runtime last reported it; the values are stored."""

    PENDING = "pending"  # placed, not yet requested from its runtime
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"  # surplus, not yet stopped


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine of a version, placed on a runtime."""

    engine_id: str
    runtime_id: str
    phase: Phase = Phase.PENDING
    failure: FailureRecord | None = None
    settings_id: str = ""
    """The settings that it was started with, as `Version.settings_id`."""

    @property
    def awaits_files(self) -> bool:
        """Whether it failed because its host could not fetch the files, which is tried again."""
        reason = self.failure.reason if self.failure is not None else ""
        return self.phase is Phase.FAILED and reason in _FETCH_FAILURES


@dataclass(frozen=True, slots=True)
class OutputFormats:
    """How the output of a version is read; empty where its chat template decides."""

    tools: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model.

    `intent` grows with each load and unload; observations made under an older one are outdated.
    """

    model: str
    number: int
    state: State
    source: Source
    created_at: datetime
    artifact: Artifact | None = None
    desired_replicas: int = 0
    replicas: tuple[Replica, ...] = ()
    failure: FailureRecord | None = None
    intent: int = 0
    formats: OutputFormats = OutputFormats()
    profile: str = ""
    profile_revision: int = 0
    selected: bool = False
    """Whether LoadModel loaded it, and UnloadModel has not unloaded it since."""
    damaged_files: tuple[str, ...] = ()
    """Files that a check found missing or damaged; they keep the version from being loaded."""
    settings: EngineProfile = NO_SETTINGS
    """Those of its profile, but for the chat template."""
    upstream: Upstream | None = None
    """The server that answers for it; None if engines run it. It has no replicas, and counts as one
    where those are counted: desired while it is switched on, ready while its health check succeeds.
    """

    @property
    def profile_label(self) -> str:
        """Its profile as NAME@REVISION; empty for the defaults."""
        return f"{self.profile}@{self.profile_revision}" if self.profile else ""

    @property
    def settings_id(self) -> str:
        """Equal for settings that start equal engines; empty for the defaults."""
        return self.settings.settings_id

    @property
    def context_tokens(self) -> int:
        """The largest prompt plus output that its engines accept; 0 if it is unknown."""
        if self.upstream is not None:
            return self.upstream.context_tokens
        own = self.artifact.context_tokens if self.artifact is not None else 0
        return self.settings.context_tokens or own

    @property
    def current_replicas(self) -> tuple[Replica, ...]:
        """The replicas that were started with its present settings."""
        return tuple(each for each in self.replicas if each.settings_id == self.settings_id)

    @property
    def current_ready_replicas(self) -> int:
        """The number of those that are ready."""
        if self.upstream is not None:
            return self.ready_replicas
        return sum(replica.phase is Phase.READY for replica in self.current_replicas)

    @property
    def ready_replicas(self) -> int:
        """The number of ready replicas."""
        if self.upstream is not None:
            return int(self.state is State.READY)
        return sum(replica.phase is Phase.READY for replica in self.replicas)

    @property
    def retry_in_s(self) -> float:
        """The longest time until the reconciler retries a failure; 0 when nothing failed, or when
        only a new load retries, because a runtime no longer restarts an engine.
        """
        if self.failure is None or self.desired_replicas == 0:
            return 0.0
        failed = [replica for replica in self.replicas if replica.phase is Phase.FAILED]
        if any(not replica.awaits_files for replica in failed):
            return 0.0
        return FETCH_RETRY_S if failed else PLACEMENT_RETRY_S

    def with_health(self, failure: FailureRecord | None) -> "Version":
        """This version of an upstream after a health check."""
        state = State.READY if failure is None else State.LOAD_FAILED
        return replace(self, state=state, failure=failure)

    def with_replicas(
        self, replicas: tuple[Replica, ...], failure: FailureRecord | None
    ) -> "Version":
        """This version with these replicas, and the state that follows from them."""
        ready = sum(replica.phase is Phase.READY for replica in replicas)
        state = state_of(
            self.state,
            desired=self.desired_replicas,
            present=len(replicas),
            ready=ready,
            failed=failure is not None,
        )
        return replace(self, replicas=replicas, failure=failure, state=state)

    def check_files(self) -> None:
        """Raises: ModelFilesDamaged when a check found damaged files."""
        if self.damaged_files:
            shown = ", ".join(self.damaged_files[:3])
            more = len(self.damaged_files) - 3
            raise ModelFilesDamaged(
                f"{self.label} has damaged or missing files ({shown}"
                f"{f' and {more} more' if more > 0 else ''});"
                f" {_repair(self.source)}, or restore them and verify again"
            )

    def with_profile(self, profile: Profile) -> "Version":
        """This version with a profile, which its next engines are started with."""
        settings = profile.settings.without_template()
        if profile.name == DEFAULT_PROFILE:
            return replace(self, profile="", profile_revision=0, settings=settings)
        return replace(
            self, profile=profile.name, profile_revision=profile.revision, settings=settings
        )

    @property
    def label(self) -> str:
        """The version as it is written in messages and references: name@version."""
        return f"{self.model}@{self.number}"


@dataclass(frozen=True, slots=True)
class Model:
    """A model with its versions, oldest first; `sequence` is the number of its last change.

    An ensemble has a recipe, as JSON, and no versions.
    """

    name: str
    versions: tuple[Version, ...]
    aliases: Mapping[str, int] = field(default_factory=dict[str, int])
    sequence: int = 0
    policy: Policy = field(default_factory=Policy)
    splits: Mapping[str, Split] = field(default_factory=dict[str, Split])
    shadows: tuple[Shadow, ...] = ()
    ensemble: str = ""
    adapters: Mapping[str, Adapter] = field(default_factory=dict[str, Adapter])
    """By name, in their order."""

    @property
    def default_version(self) -> int:
        """The version that the bare name refers to at present."""
        return default_version(self.versions, self.aliases)

    @property
    def routed_versions(self) -> frozenset[int]:
        """The versions that rollouts, experiments and shadows need while they run: those that their
        splits name, what a split alias refers to besides, and those of shadows.
        """
        arms = {arm.version for split in self.splits.values() for arm in split.arms}
        shadowed = {each.from_version for each in self.shadows}
        aliased = {self.aliases.get(alias, self.default_version) for alias in self.splits}
        return frozenset(arms | aliased | shadowed | {each.to_version for each in self.shadows})

    def version(self, number: int, *, field: str = "model") -> Version:
        """The version with this number.

        Raises: ModelNotFound.
        """
        self._check_versions(field)
        for version in self.versions:
            if version.number == number:
                return version
        known = ", ".join(str(version.number) for version in self.versions)
        raise ModelNotFound(f"{self.name} has no version {number}; it has {known}", field=field)

    def resolve(self, reference: ModelReference) -> Version:
        """The version that a reference to this model refers to; an adapter's is the default one.

        Raises: ModelNotFound.
        """
        self._check_versions("model")
        if reference.version is not None:
            return self.version(reference.version)
        if reference.alias is None or reference.alias in self.adapters:
            return self.version(self.default_version)
        return self.version(self.aliased(reference.alias, field="model"))

    def aliased(self, alias: str, *, field: str = "alias") -> int:
        """The number of the version that an alias refers to.

        Raises: ModelNotFound.
        """
        self._check_versions(field)
        if alias not in self.aliases:
            known = ", ".join(sorted(self.aliases)) or "none"
            raise ModelNotFound(f"{self.name} has no alias {alias}; it has {known}", field=field)
        return self.aliases[alias]

    def adapter(self, name: str, *, field: str = "name") -> Adapter:
        """The adapter of a name.

        Raises: AdapterNotFound.
        """
        if name not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise AdapterNotFound(f"{self.name} has no adapter {name}; it has {known}", field=field)
        return self.adapters[name]

    def _check_versions(self, field: str) -> None:
        if self.ensemble:
            raise ModelNotFound(
                f"{self.name} is an ensemble and has no versions; name one of its models",
                field=field,
            )

    def with_upstream(self, upstream: Upstream) -> Version | None:
        """The version that this upstream answers for."""
        return next((each for each in self.versions if each.upstream == upstream), None)

    def with_content(self, artifact: Artifact) -> Version | None:
        """The version that has the same content and serves the same."""
        wanted = artifact.digest, artifact.kind
        return next(
            (
                v
                for v in self.versions
                if v.artifact and (v.artifact.digest, v.artifact.kind) == wanted
            ),
            None,
        )

    def pulled_from(self, source: Source) -> Version | None:
        """The version pulled from the same commit, else one of the same revision whose pull is not
        complete.
        """
        versions = [v for v in reversed(self.versions) if v.source.is_like(source)]
        for version in versions:
            if version.state in ON_DISK and version.source.commit == source.commit:
                return version
        for version in versions:
            if version.state not in ON_DISK and version.source.revision == source.revision:
                return version
        return None


@dataclass(frozen=True, slots=True)
class Change:
    """A model after a change; None if it was removed."""

    sequence: int
    name: str
    model: Model | None


def _repair(source: Source) -> str:
    if source.repo_id:
        return f"pull {source.repo_id} again"
    return "import the file again" if source.file else "register the directory again"


def default_version(versions: tuple[Version, ...], aliases: Mapping[str, int]) -> int:
    """The alias `default`, else the newest selected version with a ready replica, else the newest
    selected one, else the newest on disk, else the newest; 0 when there is no version.

    What is loaded on demand or unloaded by the mesh itself changes nothing.
    """
    if DEFAULT_ALIAS in aliases:
        return aliases[DEFAULT_ALIAS]
    selected = [version.number for version in versions if version.selected]
    ready = [each.number for each in versions if each.selected and each.ready_replicas]
    on_disk = [version.number for version in versions if version.state in ON_DISK]
    return max(ready or selected or on_disk or [version.number for version in versions], default=0)
