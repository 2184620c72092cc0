"""Hosts of their own on one machine, for tests across a network that can be cut."""
