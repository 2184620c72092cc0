"""Converts downloads to stored JSON and back."""

import json
from dataclasses import asdict
from datetime import datetime

from mlxmesh_model.catalogue.models import FailureRecord
from mlxmesh_model.hub.download import Download, State, Wanted


def download_text(download: Download) -> str:
    """A download as it is stored."""
    return json.dumps(asdict(download), default=datetime.isoformat)


def to_download(text: str) -> Download:
    """A download from its stored form."""
    stored = json.loads(text)
    failure, ended_at = stored.pop("failure"), stored.pop("ended_at")
    return Download(
        wanted=Wanted(**stored.pop("wanted")),
        state=State(stored.pop("state")),
        created_at=datetime.fromisoformat(stored.pop("created_at")),
        ended_at=datetime.fromisoformat(ended_at) if ended_at else None,
        failure=FailureRecord(**failure) if failure else None,
        **stored,
    )
