"""Which errors of a member leave it to another one, and what the caller gets if all fail. Pure."""

from collections.abc import Sequence

import grpc

from mlxmesh_generation.domain.ensemble import BestOf, Fallback, Recipe
from mlxmesh_generation.domain.request import Chat, GenerationRequest, PromptTokens
from mlxmesh_generation.ensembles.asking import Attempt
from mlxmesh_shared.errors import ContextTooLong, FeatureNotSupported, MeshError

# Another model cannot help: the request is wrong, or nobody waits for the answer any more.
_FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


def leaves_to_others(error: MeshError) -> bool:
    """Whether another model may still answer; its context may be longer, or it may do more."""
    return error.code not in _FINAL or isinstance(error, ContextTooLong | FeatureNotSupported)


def nobody_answered(attempts: Sequence[Attempt]) -> MeshError:
    """The error for the caller: of the first that a retry may help against, else of the last."""
    failed = [(each, each.error) for each in attempts if each.error is not None]
    errors = [error for _, error in failed]
    chosen = next((error for error in errors if error.retryable), errors[-1])
    reasons = "; ".join(f"{each.reference}: {error.message}" for each, error in failed)
    return type(chosen)(
        f"no model of the ensemble answered: {reasons}",
        field=chosen.field,
        retry_delay_s=chosen.retry_delay_s,
    )


def check_supported(request: GenerationRequest, recipe: Recipe) -> None:
    """Raises: FeatureNotSupported for what a recipe cannot do."""
    if request.adapter:
        raise _not_supported("adapter", "takes none; name model:adapter in its recipe")
    if request.n > 1 and not isinstance(recipe, Fallback):
        raise _not_supported("n", "gives one answer; leave it out")
    if not isinstance(recipe, BestOf):
        return
    if isinstance(request.input, PromptTokens):
        raise _not_supported("tokens", "needs a prompt that its judge can read; send text")
    if isinstance(request.input, Chat) and request.input.tools is not None:
        raise _not_supported("tools", "cannot score calls of tools; leave them out")


def _not_supported(field: str, why: str) -> FeatureNotSupported:
    return FeatureNotSupported(f"{field}: this ensemble {why}, or use a model", field=field)
