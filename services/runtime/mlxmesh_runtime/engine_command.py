"""Builds the command lines of engine processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from mlxmesh_runtime.engine_record import EngineOptions, EngineSpec
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.settings.names import flag, given_names, setting_value

# The runtime limits every drain: the engine's own limit must not end it earlier.
UNLIMITED_DRAIN_S = 24 * 3600
MLXMESH_ENGINE = (sys.executable, "-m", "mlxmesh_engine")
# Command lines are visible to other users; engines inherit the environment variable instead.
_SECRET = "consul.token"  # noqa: S105 - its name


@dataclass(frozen=True)
class RankPlace:
    """Which rank of a group a process is, and where rank 0 listens for it."""

    rank: int
    leader: str
    share_ppm: int = 0
    """Its part of the layers, in millionths; 0 for parts of equal size."""


@dataclass(frozen=True, kw_only=True)
class EngineCommand:
    """Builds command lines; `program` precedes the engine's flags.

    An engine gets the runtime's own settings of the mesh.
    """

    mesh: MeshSettings
    prefix_disk_bytes: int = 0
    """For engines whose options do not say."""
    program: Sequence[str] = MLXMESH_ENGINE

    def line(
        self, spec: EngineSpec, *, place: RankPlace | None = None, runtime_address: str = ""
    ) -> list[str]:
        """The command line for one engine of the runtime at an address, or for a rank above 0 of
        its group.
        """
        flags: dict[str, object] = {
            "engine_id": spec.engine_id,
            "model": spec.model,
            "model_version": spec.model_version,
            "model_dir": spec.model_dir,
            "drain_grace_s": UNLIMITED_DRAIN_S,
            "runtime_address": runtime_address or None,
            **self._mesh_flags(),
            **asdict(self._options(spec)),
        }
        if place is not None:
            flags |= {"group_rank": place.rank, "group_leader": place.leader}
            flags |= {"group_share_ppm": place.share_ppm or None}
        return [*self.program, *_arguments(flags)]

    def _options(self, spec: EngineSpec) -> EngineOptions:
        own = spec.options.prefix_disk_bytes is not None
        # A group keeps no prefixes on disk.
        if own or not self.prefix_disk_bytes or spec.group_size > 1:
            return spec.options
        return replace(spec.options, prefix_disk_bytes=self.prefix_disk_bytes)

    def spare_line(self) -> list[str]:
        """The command line for a spare engine process."""
        return [*self.program, *_arguments({"spare": True, "data_dir": self.mesh.data_dir})]

    def _mesh_flags(self) -> dict[str, object]:
        given = {name: setting_value(self.mesh, name) for name in given_names(self.mesh)}
        given.pop(_SECRET, None)
        return {"data_dir": self.mesh.data_dir, **given}


def _arguments(flags: Mapping[str, object]) -> Iterator[str]:
    for name, value in flags.items():
        if isinstance(value, bool):
            yield flag(name) if value else flag(f"no_{name}")
        elif value is not None:
            yield from (flag(name), str(value))
