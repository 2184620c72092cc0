"""Loads OpenBLAS before any test module here imports mlx, so that mlx binds to it."""

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()
