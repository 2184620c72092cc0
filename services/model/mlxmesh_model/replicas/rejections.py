"""Which runtimes rejected a replica of which version, and why."""

import logging
from collections.abc import Callable, Collection, Mapping

from mlxmesh_model.catalogue.models import FailureRecord, Version
from mlxmesh_shared.errors import InvalidArgument, MeshError, ModelFilesMissing

_log = logging.getLogger(__name__)

OnRejection = Callable[[Version, str, FailureRecord], None]
"""Called with the version, the runtime's id and the cause."""


def _ignore(version: Version, runtime_id: str, cause: FailureRecord) -> None:
    pass


class Rejections:
    """The rejections that still hold; the reconciler records them and the servicer shows them."""

    def __init__(self, on_rejection: OnRejection = _ignore) -> None:
        """`on_rejection` is called for each new rejection."""
        self._on_rejection = on_rejection
        self._causes: dict[str, dict[str, FailureRecord]] = {}

    def of(self, version: Version) -> Mapping[str, FailureRecord]:
        """The cause of each rejection of a version, by runtime id."""
        return self._causes.get(version.label, {})

    def add(self, version: Version, runtime_id: str, cause: FailureRecord) -> None:
        """Records a rejection; logs and publishes it when its reason is new."""
        causes = self._causes.setdefault(version.label, {})
        known = causes.get(runtime_id)
        causes[runtime_id] = cause
        # The same reason with other figures is not new: free memory changes all the time.
        if known is not None and known.reason == cause.reason:
            return
        _log.warning("a runtime rejected %s: %s", version.label, cause.message)
        self._on_rejection(version, runtime_id, cause)

    def remove(self, version: Version, runtime_id: str) -> None:
        """Removes a rejection after the runtime accepted the version."""
        self._causes.get(version.label, {}).pop(runtime_id, None)

    def retain(self, labels: Collection[str], runtime_ids: Collection[str]) -> None:
        """Removes the rejections of all other versions and by all other runtimes."""
        self._causes = {
            label: {one: cause for one, cause in causes.items() if one in runtime_ids}
            for label, causes in self._causes.items()
            if label in labels
        }


def rejection_cause(runtime_id: str, version: Version, error: MeshError) -> FailureRecord:
    """The cause of a rejection, in terms of the LoadModel call that it affects."""
    if isinstance(error, InvalidArgument) and error.field == "model_dir" and version.artifact:
        directory = version.artifact.directory
        error = ModelFilesMissing(
            f"{runtime_id} does not have the files of {version.label}: {directory}; copy them"
            " there, or share the directory between the hosts"
        )
    return FailureRecord.of(error)
