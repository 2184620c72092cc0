"""`make models`: examines every architecture and writes docs/models.md."""

import sys
import tempfile
from pathlib import Path

from tests.matrix import document
from tests.matrix.configs import NOT_TRIED, architectures
from tests.matrix.examination import Outcome, examine


def main() -> None:
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in architectures():
            if name in NOT_TRIED:
                outcomes.append(Outcome(name, f"not tried: {NOT_TRIED[name]}"))
            else:
                outcomes.append(examine(name, Path(folder)))
            sys.stderr.write(f"{outcomes[-1]}\n")
    document.DOCUMENT.write_text(document.text(outcomes))


if __name__ == "__main__":
    main()
