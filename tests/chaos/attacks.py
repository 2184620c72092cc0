"""What a hostile or broken client may do to a gateway, each as one function.

Every attack takes the address of the gateway (those on HTTP, of its HTTP port), goes on for so many
seconds, and returns how its calls ended. `python -m tests.chaos.attacks NAME ADDRESS SECONDS` runs
one in a process of its own, so that what it costs here is not what it costs the gateway.
"""

from __future__ import annotations

import asyncio
import json
import sys

from tests.chaos.attack_calls import Attack
from tests.chaos.attacks_by_connection import (
    half_sent_messages,
    large_metadata,
    reset_streams,
    silent_connections,
    slow_http_requests,
    slow_readers,
    watchers,
)
from tests.chaos.attacks_by_message import (
    compressed_elements,
    just_legal_lists,
    many_elements,
    map_entries,
    packed_numbers,
    unknown_fields,
)
from tests.chaos.attacks_by_telemetry import (
    empty_spans,
    large_events,
    large_service_names,
    many_series,
)

ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        many_elements,
        compressed_elements,
        unknown_fields,
        packed_numbers,
        map_entries,
        just_legal_lists,
        half_sent_messages,
        silent_connections,
        slow_readers,
        reset_streams,
        large_metadata,
        watchers,
        empty_spans,
        large_service_names,
        many_series,
        large_events,
    )
}
"""Those on the gRPC port."""
HTTP_ATTACKS: dict[str, Attack] = {
    attack.__name__: attack for attack in (silent_connections, slow_http_requests)
}
"""Those on the HTTP port."""


def main() -> None:
    """Runs one attack and prints how its calls ended, as JSON."""
    name, address, seconds = sys.argv[1:]
    attack = {**HTTP_ATTACKS, **ATTACKS}[name]
    sys.stdout.write(json.dumps(asyncio.run(attack(address, float(seconds)))) + "\n")


if __name__ == "__main__":
    main()
