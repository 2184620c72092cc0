"""The fixtures of canitoolcall that we do not pass, and why."""

from collections.abc import Mapping

DEVIATIONS: Mapping[str, str] = {}
