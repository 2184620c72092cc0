"""Every scenario, in the order in which they run."""

from tests.chaos.scenarios import freezes, kills, links

SCENARIOS = (*kills.SCENARIOS, *freezes.SCENARIOS, *links.SCENARIOS)
