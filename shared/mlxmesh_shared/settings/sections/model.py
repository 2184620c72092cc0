"""The settings of the model service."""

from mlxmesh_shared.settings.fields import FullPath, Seconds
from mlxmesh_shared.settings.listen import Listen
from mlxmesh_shared.settings.sections.mesh import MeshSettings


class ModelSettings(MeshSettings):
    """The catalogue."""

    listen: Listen = "127.0.0.1:0"
    """Where other services connect, host:port; port 0 chooses a free one."""
    database_url: str = ""
    """postgresql:// or sqlite:///, as in docs/operations.md; empty for model.db in the data
    directory."""
    models_dir: FullPath | None = None
    """The directory of pulled models; default models in the data directory."""
    reconcile_interval_s: Seconds = 1.0
    """How often desired and running replicas are compared when nothing changes."""
    runtime_grace_s: Seconds = 30
    """How long a runtime may be missing from the registry before its replicas are placed
    elsewhere."""
    hub_endpoint: str = ""
    """The model hub to pull from; empty for HF_ENDPOINT, or else the hub library's own default."""
    drain_grace_s: Seconds = 5
    """How long running calls may continue after a stop was requested."""
