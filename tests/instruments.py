"""Every metric of the mesh, gathered from the packages that declare them."""

from mlxmesh_engine.service import telemetry as of_engine
from mlxmesh_gateway.forwarding import telemetry as of_gateway
from mlxmesh_generation.reporting import reporter as of_reporting
from mlxmesh_generation.shadowing import shadowing as of_shadowing
from mlxmesh_generation.streams import telemetry as of_generation
from mlxmesh_jobs import telemetry as of_jobs
from mlxmesh_model.rollouts import telemetry as of_rollouts
from mlxmesh_runtime import memory_watch as of_runtime
from mlxmesh_runtime.files import fetches as of_fetches
from mlxmesh_shared.artifacts import uploads as of_uploads
from mlxmesh_shared.telemetry import instruments as of_every_process
from mlxmesh_shared.telemetry.instruments import Instrument
from mlxmesh_tools import telemetry as of_tools
from mlxmesh_worker import telemetry as of_worker

OWNERS = (
    of_every_process,
    of_gateway,
    of_generation,
    of_reporting,
    of_shadowing,
    of_engine,
    of_runtime,
    of_fetches,
    of_uploads,
    of_rollouts,
    of_jobs,
    of_worker,
    of_tools,
)
ALL = tuple(
    value for owner in OWNERS for value in vars(owner).values() if isinstance(value, Instrument)
)
