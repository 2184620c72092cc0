"""Opens the configured backend; imports MLX only if the backend uses it."""

import logging
from functools import partial
from importlib import import_module
from pathlib import Path

import psutil

from mlxmesh_engine.forward.blas import OpenedBlas, open_blas
from mlxmesh_engine.forward.mlx_lm_import import import_mlx_lm
from mlxmesh_engine.service.backend import Backend
from mlxmesh_engine.service.simulated import SimulatedEngine
from mlxmesh_engine.service.simulated_model import Pace, SimulatedModel
from mlxmesh_engine.service.telemetry import StepMetrics
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.process.startup import raise_descriptor_limit
from mlxmesh_shared.settings import EngineSettings

_MAX_PREFIX_BYTES = 2**30

_WANTED_OPEN_FILES = 2048
"""All files of a model are open while it loads, and large models have hundreds."""

_log = logging.getLogger(__name__)


def open_backend(settings: EngineSettings, metrics: StepMetrics) -> Backend:
    """The configured backend, not started. Raises: InvalidArgument."""
    if settings.model_dir is None:
        raise InvalidArgument("name a model: --model-dir DIRECTORY", field="model_dir")
    open_ = _simulated if settings.backend == "simulated" else _mlx
    return open_(settings, settings.model_dir, metrics)


def import_backend(settings: EngineSettings) -> None:
    """Imports in advance what takes longest: MLX, if the configured backend uses it."""
    if settings.telemetry:
        import_module("mlxmesh_shared.telemetry.exporter")
    if settings.backend == "mlx":
        _import_mlx()


def _import_mlx() -> OpenedBlas:
    blas = open_blas()
    # Only now: MLX binds to the BLAS that is loaded when it is imported.
    import_mlx_lm()
    import_module("mlxmesh_engine.service.mlx_thread")
    return blas


def _mlx(settings: EngineSettings, model_dir: Path, metrics: StepMetrics) -> Backend:
    opened, open_files = _import_mlx(), raise_descriptor_limit()
    from mlxmesh_engine.forward.loader import LoadedModel, load
    from mlxmesh_engine.service.mlx_thread import LoopOptions, MlxThread

    def load_model() -> LoadedModel:
        loaded = load(
            model_dir,
            blas=opened.blas,
            dtype=settings.dtype,
            context_tokens=settings.context_tokens,
            kv_cache_bytes=settings.kv_cache_bytes,
            cpu_forward=settings.forward == "auto",
            cpu_threads=settings.cpu_threads,
            available_bytes=lambda: psutil.virtual_memory().available,
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
        token_interval_s=settings.token_interval_ms / 1e3,
    )
    return MlxThread(load_model, options, metrics)


def _prefix_cache_bytes(settings: EngineSettings) -> int:
    if settings.prefix_cache_bytes is not None:
        return settings.prefix_cache_bytes
    return min(_MAX_PREFIX_BYTES, psutil.virtual_memory().total // 10)


def _simulated(settings: EngineSettings, model_dir: Path, metrics: StepMetrics) -> Backend:
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
        metrics=metrics,
    )
