"""Loads OpenBLAS before any test module here imports mlx, so that mlx binds to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlxmesh_engine.forward.blas import prepare_blas

if TYPE_CHECKING:
    from tests.fakes.constrained_rig import ConstrainedRig

prepare_blas()

POCKET = Path(__file__).parents[3] / "deploy/demo-model/pocket"
POCKET_EOS = 1


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.fakes.tiny_model import write_model

    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def text_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConstrainedRig]:
    """On a small random model."""
    from tests.fakes.constrained_rig import ConstrainedRig, write_text_model

    with closing(ConstrainedRig(write_text_model(tmp_path_factory.mktemp("text")))) as rig:
        yield rig


@pytest.fixture(scope="module")
def pocket_rig() -> Iterator[ConstrainedRig]:
    """On the bundled model."""
    from tests.fakes.constrained_rig import ConstrainedRig

    with closing(ConstrainedRig(POCKET, eos=POCKET_EOS)) as rig:
        yield rig
