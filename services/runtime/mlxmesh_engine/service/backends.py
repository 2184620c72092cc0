"""Opens the configured backend; imports MLX only if the backend uses it."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mlxmesh_engine.adapters.locating import LocateAdapter, directory_of
from mlxmesh_engine.encoder.files import Kind
from mlxmesh_engine.forward.blas import OpenedBlas, open_blas
from mlxmesh_engine.forward.mlx_lm_import import import_mlx_lm
from mlxmesh_engine.groups.messages import Started
from mlxmesh_engine.groups.operations import Send
from mlxmesh_engine.service.backend import Backend, Encoder
from mlxmesh_engine.service.simulated import SimulatedEngine
from mlxmesh_engine.service.simulated_model import Pace, SimulatedModel
from mlxmesh_engine.service.telemetry import StepMetrics
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.process.startup import raise_descriptor_limit
from mlxmesh_shared.settings import EngineSettings

if TYPE_CHECKING:
    from mlxmesh_engine.forward.loader import LoadedModel
    from mlxmesh_engine.groups.follower import Follower
    from mlxmesh_engine.groups.loader import LoadedPart
    from mlxmesh_engine.prefixes.directory import PrefixDirectory

    Load = Callable[..., LoadedModel]

_MAX_PREFIX_BYTES = 2**30

_WANTED_OPEN_FILES = 2048
"""All files of a model are open while it loads, and large models have hundreds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GroupLead:
    """What rank 0 of a group needs to compute with the others."""

    started: Started
    send: Send
    failed: Callable[[BaseException], None]
    """Gets an error of an operation, which the other ranks may not have."""


def open_backend(
    settings: EngineSettings,
    metrics: StepMetrics,
    locate_adapter: LocateAdapter = directory_of,
    *,
    lead: GroupLead | None = None,
) -> Backend:
    """The configured backend, not started. lead: of rank 0 of a group. Raises: InvalidArgument."""
    if settings.model_dir is None:
        raise InvalidArgument("name a model: --model-dir DIRECTORY", field="model_dir")
    if settings.backend == "simulated":
        return _simulated(settings, settings.model_dir, metrics)
    return _mlx(settings, settings.model_dir, metrics, locate_adapter, lead)


def open_encoder(settings: EngineSettings, kind: Kind) -> Encoder:
    """The backend of an engine that encodes, not started. Raises: InvalidArgument."""
    if settings.model_dir is None:
        raise InvalidArgument("name a model: --model-dir DIRECTORY", field="model_dir")
    if settings.backend == "simulated":
        raise InvalidArgument(
            f"the simulated backend generates, and cannot serve {kind}", field="backend"
        )
    _check_full(settings, f"an engine of the kind {kind}")
    opened = import_mlx()
    from mlxmesh_engine.encoder.loader import load_encoder
    from mlxmesh_engine.service.encoder_thread import EncoderThread

    load_model = partial(
        load_encoder,
        settings.model_dir,
        kind=kind,
        blas=opened.blas,
        dtype=settings.dtype,
        context_tokens=settings.context_tokens,
        available_bytes=lambda: psutil.virtual_memory().available,
    )
    return EncoderThread(
        load_model, max_running=settings.max_running, max_waiting=settings.max_waiting
    )


def import_backend(settings: EngineSettings) -> None:
    """Imports in advance what takes longest: MLX, if the configured backend uses it."""
    if settings.telemetry:
        import_module("mlxmesh_shared.telemetry.exporter")
    if settings.backend == "mlx":
        import_mlx()


def import_mlx() -> OpenedBlas:
    """Imports what uses MLX, after the BLAS that it binds to."""
    blas = open_blas()
    # Only now: MLX binds to the BLAS that is loaded when it is imported.
    import_mlx_lm()
    import_module("mlxmesh_engine.service.mlx_thread")
    return blas


def open_part(settings: EngineSettings, started: Started) -> "Callable[[], Follower]":
    """Loads the part of a rank above 0. Raises, when it is called: as `load_part`."""

    def load() -> "Follower":
        from mlxmesh_engine.groups.follower import Follower

        return Follower(_load_part(settings, started).forward)

    return load


def _load_part(settings: EngineSettings, started: Started) -> "LoadedPart":
    opened = import_mlx()
    raise_descriptor_limit()
    from mlxmesh_engine.groups.loader import Seat, load_part

    if settings.model_dir is None:
        raise InvalidArgument("name a model: --model-dir DIRECTORY", field="model_dir")
    return load_part(
        Seat(
            settings.group_rank,
            started.ring_addresses,
            settings.group_share_ppm,
            settings.group_start_silence_s,
        ),
        settings.model_dir,
        blas=opened.blas,
        dtype=settings.dtype,
        split=settings.group_split,
        context_tokens=settings.context_tokens,
        kv_cache_bytes=settings.kv_cache_bytes,
        available_bytes=_available_bytes,
    )


def _load_led(settings: EngineSettings, lead: GroupLead) -> "LoadedModel":
    from mlxmesh_engine.groups.leader import GroupForward

    part = _load_part(settings, lead.started)
    return replace(part.loaded, model=GroupForward(part.forward, lead.send, lead.failed))


def _mlx(
    settings: EngineSettings,
    model_dir: Path,
    metrics: StepMetrics,
    locate_adapter: LocateAdapter,
    lead: GroupLead | None,
) -> Backend:
    if settings.speculative == "draft" and settings.draft_model_dir is None:
        raise InvalidArgument(
            "speculative draft needs a draft model: --draft-model-dir DIRECTORY",
            field="draft_model_dir",
        )
    opened, open_files = import_mlx(), raise_descriptor_limit()
    from mlxmesh_engine.forward.loader import LoadedModel
    from mlxmesh_engine.forward.proposals import with_draft
    from mlxmesh_engine.service.mlx_thread import LoopOptions, MlxThread

    load = _vision_loader() if settings.kind == "vision" else _loader()

    def load_from(
        load: Callable[..., LoadedModel], folder: Path, context_tokens: int, kv_cache_type: str
    ) -> LoadedModel:
        return load(
            folder,
            blas=opened.blas,
            dtype=settings.dtype,
            context_tokens=context_tokens,
            kv_cache_bytes=settings.kv_cache_bytes,
            kv_cache_type=kv_cache_type,
            cpu_forward=settings.forward == "auto",
            cpu_threads=settings.cpu_threads,
            available_bytes=_available_bytes,
        )

    def load_model() -> LoadedModel:
        if lead is not None:
            return _load_led(settings, lead)
        loaded = load_from(load, model_dir, settings.context_tokens, settings.kv_cache_type)
        if settings.speculative == "draft" and (draft_dir := settings.draft_model_dir):
            loaded = with_draft(
                loaded,
                lambda: load_from(_loader(), draft_dir, 0, "full"),
                model_dir=model_dir,
                draft_model_dir=draft_dir,
                available_bytes=_available_bytes,
                kv_cache_bytes=settings.kv_cache_bytes,
            )
        # Only now: if loading fails, its error is logged without unrelated warnings.
        if opened.blas == "reference":
            _log.warning(opened.fix)
        if open_files < _WANTED_OPEN_FILES:
            _log.warning(
                "this process may open only %d files, too few for a model with many files: "
                "raise the limit (ulimit -n %d) and restart the mesh",
                open_files,
                _WANTED_OPEN_FILES,
            )
        return loaded

    options = LoopOptions(
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        prefill_tokens_per_step=settings.prefill_tokens_per_step,
        prefill_slowdown=settings.prefill_slowdown,
        prefix_cache_bytes=_prefix_cache_bytes(settings),
        open_prefix_directory=partial(_open_prefix_directory, settings, model_dir),
        token_interval_s=settings.token_interval_ms / 1e3,
        speculative=settings.speculative,
        max_adapters=settings.max_adapters,
        adapter_bytes=settings.adapter_bytes,
        locate_adapter=locate_adapter,
    )
    return MlxThread(load_model, options, metrics)


def _check_full(settings: EngineSettings, what: str) -> None:
    """Raises: InvalidArgument if keys and values should have fewer bits where none are kept."""
    if settings.kv_cache_type != "full":
        raise InvalidArgument(
            f"{what} keeps no keys and values; set kv_cache_type to full", field="kv_cache_type"
        )


def _loader() -> "Load":
    from mlxmesh_engine.forward.loader import load

    return load


def _vision_loader() -> "Load":
    """Raises: FeatureNotSupported if mlx-vlm is not installed."""
    # Nothing that an engine does needs a hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import_module("mlx_vlm.utils")
    except ImportError as error:
        raise FeatureNotSupported(
            f"models of the kind vision need mlx-vlm ({error}); install mlxmesh[vision] on this "
            "host"
        ) from error
    from mlxmesh_engine.vision.loader import load_vision

    return load_vision


def _available_bytes() -> int:
    return psutil.virtual_memory().available


def _prefix_cache_bytes(settings: EngineSettings) -> int:
    if settings.prefix_cache_bytes is not None:
        return settings.prefix_cache_bytes
    return min(_MAX_PREFIX_BYTES, psutil.virtual_memory().total // 10)


def _open_prefix_directory(
    settings: EngineSettings, model_dir: Path, loaded: "LoadedModel"
) -> "PrefixDirectory | None":
    """The prefixes of the loaded model on disk; None if they are not kept."""
    if not settings.prefix_disk_bytes or not _prefix_cache_bytes(settings):
        return None
    from mlxmesh_engine.prefixes.directory import PrefixDirectory
    from mlxmesh_engine.prefixes.identity import WEIGHTS, identity
    from mlxmesh_engine.prefixes.store import codec_for

    root = settings.data_dir / "prefixes"
    facts = {
        "layout": codec_for(loaded.model.new_cache([None])).layout,
        "dtype": loaded.dtype,
        "kv_cache_type": settings.kv_cache_type,
        "device": loaded.device,
    }
    return PrefixDirectory(
        root,
        settings.prefix_disk_bytes,
        lambda: identity(model_dir, facts, root / WEIGHTS),
    )


def _simulated(settings: EngineSettings, model_dir: Path, metrics: StepMetrics) -> Backend:
    _check_full(settings, "the simulated backend")
    return SimulatedEngine(
        partial(
            SimulatedModel.load,
            model_dir,
            settings.context_tokens,
            kv_cache_bytes=settings.kv_cache_bytes,
            available_bytes=psutil.virtual_memory().available,
        ),
        pace=Pace(
            step_s=settings.simulated_step_ms / 1e3,
            prefill_s_per_token=settings.simulated_prefill_us_per_token / 1e6,
            jitter=settings.simulated_jitter,
            failure_rate=settings.simulated_failure_rate,
            stall_rate=settings.simulated_stall_rate,
            stall_s=settings.simulated_stall_s,
        ),
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        prefill_tokens_per_step=settings.prefill_tokens_per_step,
        prefill_slowdown=settings.prefill_slowdown,
        max_adapters=settings.max_adapters,
        metrics=metrics,
    )
