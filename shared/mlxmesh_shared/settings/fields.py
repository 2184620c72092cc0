"""Types of settings that several sections use."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

MIB = 2**20


class Dynamic:
    """Marks a setting that may change while its process runs."""


def split_texts(value: object) -> object:
    """Splits one text, from a flag or a variable, at its commas; a list stays as it is."""
    if not isinstance(value, str):
        return value
    return tuple(text.strip() for text in value.split(",") if text.strip())


FullPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,253}$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[A-Za-z0-9.:\[\]-]{1,260})$")]
Names = Annotated[tuple[str, ...], BeforeValidator(split_texts)]
