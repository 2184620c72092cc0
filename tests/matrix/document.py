"""docs/models.md: how each architecture is served, as the matrix found it."""

from collections.abc import Iterable
from pathlib import Path

from tests.matrix.examination import Outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
_BEGINNING = """# Models

Every architecture of mlx-lm 0.32.2, and how it is served. Written by `make models`, which runs a
tiny random model of each through the engine and compares every token with mlx-lm alone: one
sequence, six at once, eight of close lengths at once, prompts in slices, a warm prefix, two turns,
and sequences resumed in mid-stream. `make test-rest` runs it again and fails where this table is
not true.

- **in batches**: close prompts are prefilled together, all sequences decode together.
- **in batches; prompts of equal length are read together**: padding would enter the state that
  these models keep, so prompts of different lengths are prefilled one after another. All sequences
  decode together.
- **one row at a time**: mlx-lm cannot batch the architecture exactly, so an engine computes its
  sequences in turn. Throughput does not grow with the number of streams.
- **refused**: LoadModel ends with FAILED_PRECONDITION and this reason, without a second try.

An engine finds out by itself: at load it compares the model's scores in batches of two, three, and
as many rows as there are KV heads with those of each row alone
([0024](decisions/0024-batch-trial.md)). So a newer mlx-lm, or weights of another type, may be
served in another way than the table says, but not wrongly.

The prefix cache needs keys and values of every token. Models that slide a window, keep a recurrent
state, or cache something else beside keys and values read each prompt anew.

On a CPU, in float32, the engine's own forward pass serves the architectures marked in the last
column ([0038](decisions/0038-cpu-forward-pass.md)). It packs prompts of all lengths and decoding
sequences into one pass, and its prefix cache works for all of them. `cpu/family_table.py` describes
each; variants that it does not know, such as dynamic scaling of the rotary embedding, are served as
the table says.

| architecture | served | prefix cache | own pass on a CPU |
| --- | --- | --- | --- |
"""


def text(outcomes: Iterable[Outcome]) -> str:
    return _BEGINNING + "".join(_row(outcome) for outcome in outcomes)


def rows(document: str) -> list[Outcome]:
    """The outcomes that a document tells of."""
    table = [line for line in document.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [
        Outcome(name.strip("`"), served, cached == "yes", own == "yes")
        for name, served, cached, own in cells
    ]


def _row(outcome: Outcome) -> str:
    cached, own = ("yes" if each else "no" for each in (outcome.prefix_cache, outcome.cpu_forward))
    return f"| `{outcome.architecture}` | {outcome.served} | {cached} | {own} |\n"
