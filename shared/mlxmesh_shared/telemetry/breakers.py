"""The metric of breakers: how many are in which state."""

from collections import Counter
from collections.abc import Callable, Iterable

from mlxmesh_shared.breaker import Breaker, BreakerState
from mlxmesh_shared.telemetry.attributes import BREAKER_STATE, SERVICE
from mlxmesh_shared.telemetry.instruments import BREAKERS
from mlxmesh_shared.telemetry.metrics import Metrics, Reading


def observe_breakers(
    metrics: Metrics, breakers: Callable[[], Iterable[tuple[str, Breaker]]]
) -> None:
    """Has breakers read for each export; each comes with the service that it stands in front of."""

    def read() -> Reading:
        found = [(service, breaker.state) for service, breaker in breakers()]
        counts = Counter(found)
        for service in sorted({service for service, _ in found}):
            for state in BreakerState:
                labels = {SERVICE: service, BREAKER_STATE: state.name.lower()}
                yield counts[service, state], labels

    metrics.observe(BREAKERS, read)
