"""An order of instances that everybody shares. Pure."""

from hashlib import sha256


def rendezvous_weight(key: str, instance_id: str) -> bytes:
    """Orders instances for a key: the same everywhere, and stable when others come and go.

    Source: Thaler, Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996).
    """
    return sha256(f"{key} {instance_id}".encode()).digest()
