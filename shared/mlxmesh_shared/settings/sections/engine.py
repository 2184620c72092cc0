"""The settings of an engine."""

from typing import Annotated, Literal

from pydantic import Field

from mlxmesh_shared.settings.fields import Amount, Count, FullPath, Ratio, Seconds
from mlxmesh_shared.settings.listen import Listen
from mlxmesh_shared.settings.sections.mesh import MeshSettings


class EngineSettings(MeshSettings):
    """One loaded model; its runtime sets engine_id, model, model_version and model_dir."""

    listen: Listen = "127.0.0.1:0"
    """Where generation services connect, host:port; port 0 chooses a free one."""
    engine_id: str = ""
    """The engine's id."""
    model: str = ""
    """The name of the model that it serves."""
    model_version: int = 0
    """The version of the model that it serves."""
    model_dir: FullPath | None = None
    """The directory of the model's files."""
    max_running: Count = 64
    """Sequences decoded concurrently."""
    max_waiting: Annotated[int, Field(ge=0)] = 256
    """Sequences in the queue; more are refused with RESOURCE_EXHAUSTED."""
    prefill_tokens_per_step: Count = 512
    """Most prompt tokens prefilled between two decode steps."""
    prefill_slowdown: Annotated[float, Field(gt=1, le=1000)] = 1.7
    """The factor by which prefills of prompts above 256 tokens may lengthen a decode step."""
    token_interval_ms: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Tokens of faster steps are sent in groups at this interval; 0 sends each at once."""
    prefix_cache_bytes: Annotated[int, Field(ge=0)] | None = None
    """Memory of the prefix cache; 0 disables it, default 10% of the host's, at most 1 GiB."""
    kv_cache_bytes: Count | None = None
    """Memory for keys and values of running sequences; default half of what is free."""
    context_tokens: Annotated[int, Field(ge=0)] = 0
    """Most tokens of prompt and output together; 0 for the model's own limit."""
    dtype: Literal["auto", "as_shipped", "float32", "float16", "bfloat16"] = "auto"
    """The type of the weights; auto expands to float32 if that is faster and fits."""
    drain_grace_s: Seconds = 30
    """How long running sequences may continue after a stop was requested."""
    spare: bool = False
    """Whether to import what an engine needs and then wait on stdin for the command line."""
    backend: Literal["mlx", "simulated"] = "mlx"
    """The source of tokens; simulated loads no weights, to measure and test the mesh."""
    simulated_step_ms: Amount = 5.0
    """The duration of a simulated decode step."""
    simulated_prefill_us_per_token: Amount = 50.0
    """The duration of a simulated prefill, for each prompt token."""
    simulated_jitter: Amount = 0.0
    """The part by which a simulated step may take longer."""
    simulated_failure_rate: Ratio = 0.0
    """The probability that a running sequence fails, in each simulated step."""
    simulated_stall_rate: Ratio = 0.0
    """The probability that a simulated step stalls for simulated_stall_s."""
    simulated_stall_s: Seconds = 1.0
    """How long a stalled simulated step lasts."""
