"""Checks requests against the rules of the fields in the protos."""

from mlxmesh_shared.rules.validator import Validator
from mlxmesh_shared.rules.wire import WireLimits
from mlxmesh_shared.rules.words import describe

__all__ = ["Validator", "WireLimits", "describe"]
