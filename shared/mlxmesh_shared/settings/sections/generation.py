"""The settings of a generation service."""

from typing import Annotated

from mlxmesh_shared.settings.fields import MIB, Count, Dynamic, Names, Seconds
from mlxmesh_shared.settings.listen import Listen
from mlxmesh_shared.settings.sections.mesh import MeshSettings


class GenerationSettings(MeshSettings):
    """Text in, text out."""

    listen: Listen = "127.0.0.1:0"
    """Where the gateway connects, host:port; port 0 chooses a free one."""
    max_concurrent_rpcs: Annotated[Count, Dynamic()] = 1024
    """Concurrent calls; more are refused with RESOURCE_EXHAUSTED."""
    prefix_routing: Annotated[bool, Dynamic()] = True
    """Whether a prompt is preferably sent to an engine that has its prefix cached."""
    max_generations: Count = 1024
    """Concurrent generations, attached or detached, and inputs whose tokens are being counted; more
    are refused with RESOURCE_EXHAUSTED."""
    max_held_bytes: Count = 256 * MIB
    """Memory for the requests of all of these; more are refused with RESOURCE_EXHAUSTED."""
    max_unread_bytes: Count = 128 * MIB
    """Memory for output that slow readers have not received; beyond it, the largest generation of
    the caller with the most is CANCELLED."""
    tokenizer_cache_models: Count = 16
    """Tokenizers cached in memory."""
    engine_wait_s: Seconds = 30
    """How long a generation without a deadline that lost its engine waits for another one."""
    detached_timeout_s: Seconds = 60
    """How long a generation with a request_id of its caller continues without a reader."""
    retention_s: Seconds = 300
    """How long the messages of such a generation are retained after its end."""
    retained_generations: Count = 4096
    """Generations whose messages are retained; the caller with the most loses its oldest first."""
    retained_bytes: Count = 64 * MIB
    """Memory for retained messages; the caller with the most loses its oldest generation first."""
    drain_grace_s: Seconds = 30
    """How long running generations may continue after a stop was requested."""
    log_content_models: Names = ()
    """Models whose prompts and outputs may appear in traces, separated by commas; default none."""
