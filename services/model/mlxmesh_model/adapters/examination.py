"""Examines the files of an adapter against those of its model."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlxmesh_model.adapters.linear_shapes import linear_shapes
from mlxmesh_shared.errors import AdapterInvalid, AdapterNotFound

if TYPE_CHECKING:
    from mlxmesh_shared.lora.adapter_files import AdapterFiles


def adapter_files(directory: Path) -> dict[str, Path]:
    """The files that an adapter of a directory may consist of, by name.

    Raises: AdapterInvalid, also for files that are too large.
    """
    # Not at the top: NumPy is slow to import, and only this needs it.
    from mlxmesh_shared.lora.adapter_files import CONFIG, MAX_WEIGHTS_BYTES, WEIGHTS

    if not directory.is_dir():
        raise _invalid(directory, "is not a directory on the model service's host")
    wanted = (CONFIG, *WEIGHTS.values())
    # A pipe among them would block its reader for ever.
    files = {name: directory / name for name in wanted if (directory / name).is_file()}
    if CONFIG not in files or len(files) < 2:
        needed = " or ".join(WEIGHTS.values())
        raise _invalid(directory, f"has no adapter: it needs {CONFIG}, and {needed}")
    for name, path in files.items():
        if path.stat().st_size > MAX_WEIGHTS_BYTES:
            raise _invalid(directory, f"{name} is larger than {MAX_WEIGHTS_BYTES // 2**20} MiB")
    return files


def examined(directory: Path, model_directory: Path) -> "AdapterFiles":
    """The adapter of a directory, which fits the model.

    Raises: AdapterInvalid says what does not fit, OSError.
    """
    from mlxmesh_shared.lora.adapter_files import read_adapter

    try:
        found = read_adapter(directory)
        found.check_against(linear_shapes(model_directory))
    except (AdapterInvalid, AdapterNotFound) as error:
        raise AdapterInvalid(f"directory: {error.message}", field="directory") from error
    return found


def _invalid(directory: Path, why: str) -> AdapterInvalid:
    return AdapterInvalid(f"directory: {directory} {why}", field="directory")
