"""Checks requests against the rules that stand beside each field in the protos."""

from mlxmesh_shared.rules.validator import Validator
from mlxmesh_shared.rules.wire import WireLimits
from mlxmesh_shared.rules.words import describe

__all__ = ["Validator", "WireLimits", "describe"]
