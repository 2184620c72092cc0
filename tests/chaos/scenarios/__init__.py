"""Every scenario, in the order in which they run."""

from tests.chaos.scenarios import (
    certificates,
    crowds,
    freezes,
    hostile,
    jobs,
    kills,
    links,
    neighbours,
    registries,
    rolling,
    shapes,
    streams,
)

SCENARIOS = (
    *kills.SCENARIOS,
    *freezes.SCENARIOS,
    *links.SCENARIOS,
    *rolling.SCENARIOS,
    *registries.SCENARIOS,
    *crowds.SCENARIOS,
    *hostile.SCENARIOS,
    *neighbours.SCENARIOS,
    *certificates.SCENARIOS,
    *streams.SCENARIOS,
    *shapes.SCENARIOS,
    *jobs.SCENARIOS,
)
