"""A process that runs the waiting batch of a jobs database, and may be killed at any time.

Usage: python -m tests.fakes.batch_child DATABASE_URL SESSION
"""

from __future__ import annotations

import asyncio
import sys

from mlxmesh_shared.process.startup import die_with_parent
from mlxmesh_shared.sql.urls import database_url
from tests.fakes.batch_rig import batch_rig


async def main(url: str, session: str) -> None:
    """Returns once the batch has ended."""
    async with batch_rig(database_url(url)) as rig:
        await rig.run_batch(session)


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(main(*sys.argv[1:]))
