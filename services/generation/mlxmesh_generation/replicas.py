"""The replicas of a model version: placing on them, and waiting for one that comes back."""

from collections.abc import Collection

from mlxmesh.engine.v1.engine_pb2 import Submit
from mlxmesh_generation.catalogue import ModelVersion
from mlxmesh_generation.engines import Engines
from mlxmesh_generation.mirror import CatalogueMirror
from mlxmesh_generation.sequence import EngineSequence, SequenceSink
from mlxmesh_shared.errors import EngineLost

# How old the catalogue's word on a version may get while someone waits for a replica of it.
ASK_AGAIN_S = 1.0


class Replicas:
    """Satisfies Placer: the engines that there are, and the catalogue's word on those to come."""

    def __init__(self, engines: Engines, catalogue: CatalogueMirror) -> None:
        self._engines = engines
        self._catalogue = catalogue

    def place(
        self, version: ModelVersion, submit: Submit, sink: SequenceSink, *, avoid: Collection[str]
    ) -> EngineSequence:
        return self._engines.place(version, submit, sink, avoid=avoid)

    def expected(self, version: ModelVersion) -> bool:
        """Whether there is a replica, or one is to come."""
        return self._engines.known(version) or self._catalogue.wants(version)

    async def wait_connected(self, version: ModelVersion, timeout_s: float) -> None:
        """Returns once an engine of this version is connected, or after timeout_s without one."""
        await self._engines.wait_connected(version, timeout_s)

    async def wait_for_replica(self, version: ModelVersion) -> None:
        if not self.expected(version):
            raise EngineLost(f"the engine was lost, and {version} is no longer loaded")
        await self._engines.wait_connected(version, ASK_AGAIN_S)
