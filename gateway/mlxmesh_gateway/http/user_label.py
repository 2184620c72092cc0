"""The user that a request names as the label `user`, by which experiments assign arms. Pure."""

from __future__ import annotations

from collections.abc import MutableMapping

USER_LABEL = "user"
MAX_LABELS = 16
_MAX_CHARACTERS = 256


def add_user(labels: MutableMapping[str, str], **named: str | None) -> list[str]:
    """Sets the label to the first field that names a user, unless the request has the label.

    Returns: the fields whose values cannot be labels.
    """
    left_out: list[str] = []
    for field, user in named.items():
        if not user or USER_LABEL in labels:
            continue
        if len(user) > _MAX_CHARACTERS or len(labels) >= MAX_LABELS:
            left_out.append(field)
        else:
            labels[USER_LABEL] = user
    return left_out
