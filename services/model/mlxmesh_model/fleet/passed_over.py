"""Which runtimes refused a replica of which version, and why: told once, kept while it holds."""

import logging
from collections.abc import Collection, Mapping

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_model.catalogue.models import FailureRecord, Version
from mlxmesh_model.convert import to_failure
from mlxmesh_shared.errors import InvalidArgument, MeshError, ModelFilesMissing
from mlxmesh_shared.events import Publish, discard_event

_log = logging.getLogger(__name__)


class PassedOver:
    """What the reconciler notes, and the servicer shows."""

    def __init__(self, publish: Publish = discard_event) -> None:
        self._publish = publish
        self._refusals: dict[str, dict[str, FailureRecord]] = {}

    def of(self, version: Version) -> Mapping[str, FailureRecord]:
        """Why, by runtime."""
        return self._refusals.get(version.label, {})

    def note(self, version: Version, runtime_id: str, failure: FailureRecord) -> None:
        """A runtime refused the version; logged and published when it is news."""
        refusals = self._refusals.setdefault(version.label, {})
        known = refusals.get(runtime_id)
        refusals[runtime_id] = failure
        # The same reason with other figures is no news: free memory changes all the time.
        if known is not None and known.reason == failure.reason:
            return
        _log.warning("passed over for %s: %s", version.label, failure.message)
        event = events.ModelPassedOver(
            model=version.model,
            version=version.number,
            runtime_id=runtime_id,
            failure=to_failure(failure),
        )
        self._publish(event, version.label)

    def accepted(self, version: Version, runtime_id: str) -> None:
        """A runtime took the version after all."""
        self._refusals.get(version.label, {}).pop(runtime_id, None)

    def keep_only(self, labels: Collection[str], runtime_ids: Collection[str]) -> None:
        """Forgets versions that nobody wants any more, and runtimes that are gone."""
        self._refusals = {
            label: {one: why for one, why in refusals.items() if one in runtime_ids}
            for label, refusals in self._refusals.items()
            if label in labels
        }


def refusal(runtime_id: str, version: Version, error: MeshError) -> FailureRecord:
    """What a runtime's refusal means to whoever wanted the version loaded."""
    if isinstance(error, InvalidArgument) and error.field == "model_dir" and version.artifact:
        directory = version.artifact.directory
        error = ModelFilesMissing(
            f"{runtime_id} has not the files of {version.label}: {directory}; put them there, or"
            " share the directory between the hosts"
        )
    return FailureRecord.of(error)
