"""Checks the arguments of operations by pydantic models."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mlxmesh_shared.errors import InvalidArgument


class Arguments(BaseModel):
    """The arguments of an operation; unknown ones are illegal."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyArguments = TypeVar("AnyArguments", bound=BaseModel)


def parse(
    operations: Mapping[str, type[AnyArguments]], operation: str, arguments: Mapping[str, Any]
) -> AnyArguments:
    """The arguments of an operation. Raises: InvalidArgument that names what is wrong."""
    model = operations.get(operation)
    if model is None:
        raise InvalidArgument(
            f"there is no operation {operation}; there are {', '.join(operations)}",
            field="operation",
        )
    try:
        return model.model_validate(dict(arguments))
    except ValidationError as error:
        # Never the value: it may be a prompt, or an image of a megabyte.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(["arguments", *(str(part) for part in first["loc"])])
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InvalidArgument(f"{where}: {first['msg']}{more}", field=where) from None
