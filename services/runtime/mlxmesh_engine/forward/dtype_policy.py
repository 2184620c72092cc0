"""Chooses the dtype for the weights. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from mlxmesh_engine.forward.blas import Blas
from mlxmesh_shared.errors import InsufficientMemory

_USABLE_FRACTION = 0.8
AS_SHIPPED = "as_shipped"
BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights as stored in the files."""

    dtype: str
    quantized_bits: int
    """0 for plain weights."""
    values: int
    """How many numbers they are when unpacked."""

    @property
    def description(self) -> str:
        return f"{self.quantized_bits}-bit quantized" if self.quantized_bits else self.dtype


@dataclass(frozen=True, slots=True)
class DtypeChoice:
    dtype: str
    """The type of activations and unpacked weights."""
    convert: bool
    note: str
    unpack: bool = True
    """Whether conversion unpacks packed weights."""


def choose_dtype(
    configured: str,
    shipped: Weights,
    *,
    device: str,
    blas: Blas,
    available_bytes: Callable[[], int],
) -> DtypeChoice:
    """Expands to float32 if only float32 uses a fast BLAS; the note says why or why not.

    Raises: InsufficientMemory if a configured dtype does not fit.
    """
    plain = not shipped.quantized_bits
    if configured == AS_SHIPPED or (configured == shipped.dtype and plain):
        return _keep(shipped, "as shipped")
    if configured != "auto":
        _check_fits(configured, shipped, available_bytes())
        return DtypeChoice(configured, True, f"converted from {shipped.description} as configured")
    if device != "cpu":
        return _keep(shipped, f"as shipped; {device} supports it natively")
    if plain and shipped.dtype == "float32":
        return _keep(shipped, "float32 as shipped")
    if blas != "openblas":
        return _unexpanded(
            shipped, f"as shipped; expanding needs OpenBLAS, and the BLAS here is {blas}"
        )
    needed, usable = _needed_bytes("float32", shipped), int(available_bytes() * _USABLE_FRACTION)
    if needed > usable:
        return _unexpanded(
            shipped,
            f"as shipped and slow on this CPU: float32 needs {_mib(needed)}, "
            f"and {_mib(usable)} are usable",
        )
    return DtypeChoice(
        "float32", True, f"expanded from {shipped.description}: only float32 is fast with OpenBLAS"
    )


def _unexpanded(shipped: Weights, note: str) -> DtypeChoice:
    """Packed weights stay packed, but their products run in float32: on a CPU mlx computes these
    8 times as fast as in bfloat16 and 37 times as fast as in float16.
    """
    if not shipped.quantized_bits:
        return _keep(shipped, note)
    return DtypeChoice("float32", True, f"{note}; computed in float32", unpack=False)


def _keep(shipped: Weights, note: str) -> DtypeChoice:
    return DtypeChoice(shipped.dtype, False, note)


def _check_fits(dtype: str, shipped: Weights, available_bytes: int) -> None:
    needed = _needed_bytes(dtype, shipped)
    if needed > available_bytes:
        raise InsufficientMemory(
            f"the weights need {_mib(needed)} as {dtype}, and {_mib(available_bytes)} are free; "
            "free memory or set dtype to as_shipped"
        )


def _needed_bytes(dtype: str, shipped: Weights) -> int:
    return shipped.values * BYTES_PER_VALUE[dtype]


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
