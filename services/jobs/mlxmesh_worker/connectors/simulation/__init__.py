"""Connectors of a back end that simulates work, for trials and tests of durability."""
