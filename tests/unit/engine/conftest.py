"""Runs before any test module here imports mlx, whose products then resolve to OpenBLAS."""

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()
