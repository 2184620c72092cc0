"""Whose fault an error is."""

import pytest

from mlxmesh_shared import errors
from mlxmesh_shared.errors import MeshError, error_classes
from mlxmesh_worker.work import Fault, fault_of

EXPECTED: dict[type[MeshError], Fault] = {
    errors.InvalidArgument: Fault.JOB,
    errors.FeatureNotSupported: Fault.JOB,
    errors.ContextTooLong: Fault.JOB,
    errors.ModelNotFound: Fault.JOB,
    errors.ModelNotAllowed: Fault.JOB,
    errors.ConstraintFailed: Fault.JOB,
    errors.MessageTooLarge: Fault.JOB,
    errors.OutputTooLarge: Fault.JOB,
    errors.GenerationExists: Fault.JOB,
    errors.ServiceUnavailable: Fault.SERVICE_UNAVAILABLE,
    errors.NoReplica: Fault.SERVICE_UNAVAILABLE,
    errors.EngineLost: Fault.SERVICE_UNAVAILABLE,
    errors.QueueFull: Fault.SERVICE_UNAVAILABLE,
    errors.QuotaExceeded: Fault.SERVICE_UNAVAILABLE,
    errors.DiskFull: Fault.SERVICE_UNAVAILABLE,
    errors.ModelNotLoaded: Fault.SERVICE_UNAVAILABLE,
    errors.DeadlineExceeded: Fault.TIMEOUT,
    errors.EngineFailed: Fault.TRANSIENT,
    errors.BackEndFailed: Fault.TRANSIENT,
    errors.Internal: Fault.TRANSIENT,
    errors.Cancelled: Fault.TRANSIENT,
}


@pytest.mark.parametrize("error", EXPECTED, ids=lambda one: one.__name__)
def test_the_fault_of_an_error(error: type[MeshError]) -> None:
    assert fault_of(error("x")) is EXPECTED[error]


def test_every_error_has_a_fault() -> None:
    assert {fault_of(each("x")) for each in error_classes()} == set(Fault)
