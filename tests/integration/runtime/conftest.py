from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.runtime.harness import RuntimeUnderTest, running_runtime


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[RuntimeUnderTest]:
    """A runtime with short limits, whose engines are fakes."""
    async with running_runtime(tmp_path) as running:
        yield running
