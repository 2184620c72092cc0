"""The templates of deploy/systemd and deploy/launchd: in the wheel, or in a source checkout."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def template(name: str) -> str:
    """The text of a template, such as `systemd/user.service`."""
    places = (_HERE / "templates", _HERE.parents[2] / "deploy")
    found = next(place / name for place in places if (place / name).is_file())
    return found.read_text()
