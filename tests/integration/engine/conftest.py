"""Loads OpenBLAS before any test module here imports mlx, so that mlx binds to it."""

from pathlib import Path

import pytest

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.fakes.tiny_model import write_model

    return write_model(tmp_path_factory.mktemp("tiny"))
