"""The methods that this edge serves, and those of the mesh that it calls."""

SERVICE = "inference.GRPCInferenceService"
SERVER_LIVE = f"/{SERVICE}/ServerLive"
SERVER_READY = f"/{SERVICE}/ServerReady"
SERVER_METADATA = f"/{SERVICE}/ServerMetadata"
MODEL_READY = f"/{SERVICE}/ModelReady"
MODEL_METADATA = f"/{SERVICE}/ModelMetadata"
CARRIERS = frozenset(
    {MODEL_READY, MODEL_METADATA, f"/{SERVICE}/ModelInfer", f"/{SERVICE}/ModelStreamInfer"}
)
"""Methods that carry calls of the mesh, which limits, quotas and telemetry count instead."""
GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"
GET_MODEL = "/mlxmesh.model.v1.ModelService/GetModel"
