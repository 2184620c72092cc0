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

The prefix cache holds any whole blocks of a prompt where every token has keys and values of its own
(**yes**). Models that slide a window, keep a recurrent state, or cache something else beside keys
and values can only go on after exactly the tokens that a cached state has seen (**whole prompts**):
a conversation goes on after its last turn, and a system prompt is prefilled twice before the third
prompt that begins with it finds it ([0081](decisions/0081-states-of-whole-prompts.md)).

On a CPU, in float32, the engine's own forward pass serves the architectures marked in the last
column ([0038](decisions/0038-cpu-forward-pass.md)). It packs prompts of all lengths and decoding
sequences into one pass, and its prefix cache works for all of them. `cpu/family_table.py` describes
each; variants that it does not know, such as dynamic scaling of the rotary embedding, are served as
the table says.

| architecture | served | prefix cache | own pass on a CPU |
| --- | --- | --- | --- |
"""

_ENCODERS = """
## Embedding models and rerankers
What a directory serves is read from its files when it is registered, in this order
(`mlxmesh register --kind` names it where they do not say):

- **rerank**: `architectures` in config.json names a `...ForSequenceClassification`, or modules.json
  of sentence-transformers has a `LogitScore`. With 1 class the score is its logit, with 2 the
  difference of theirs; models with more are refused. `LogitScore` gives the difference of the
  logits of two tokens after the last one.
- **embedding**: one of the encoders below, or modules.json has a `Pooling`.
- otherwise the model generates.

A reranker that is published as a plain language model, as the first revisions of Qwen3-Reranker
were, says nothing: with `--kind rerank` its score is the difference of the logits of the tokens
`yes` and `no` of its tokenizer.

| architecture | computed by | embedding | rerank |
| --- | --- | --- | --- |
| bert, distilbert, mpnet, roberta, xlm-roberta | the engine's own forward pass | yes | with a head for sequence classification |
| llama, mistral, qwen2, qwen3 | mlx-lm's model, without its last product | yes | `LogitScore`, `yes` and `no`, or `score.weight` |

Pooling is what `1_Pooling` says: the first token, the last, the maximum, the mean, the mean by
positions or by the root of the length, or several joined. `Dense` and `Normalize` follow as
modules.json lists them. Without modules.json an encoder's vector is the mean, a decoder's is that of
the last token, and neither is normalized. The longest input is the smaller of
`max_position_embeddings` and `max_seq_length` in sentence_bert_config.json.

Refused by name: other architectures, other modules, pooling without the prompt (`include_prompt`),
decoders whose attention goes in both directions or slides, relative positions in BERT, and weights
in other files than safetensors, those of a `Dense` module included. Weights that mlx-lm quantized
are unpacked. On a CPU everything is computed in float32 unless a profile's `dtype` says otherwise,
on a GPU in the type of the files ([0076](decisions/0076-encoder-models.md)).
"""  # noqa: E501 - a table


def text(outcomes: Iterable[Outcome]) -> str:
    return _BEGINNING + "".join(_row(outcome) for outcome in outcomes) + _ENCODERS


def rows(document: str) -> list[Outcome]:
    """The outcomes that a document tells of."""
    table = [line for line in document.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [
        Outcome(name.strip("`"), served, cached, own == "yes")
        for name, served, cached, own in cells
    ]


def _row(outcome: Outcome) -> str:
    own = "yes" if outcome.cpu_forward else "no"
    cells = (f"`{outcome.architecture}`", outcome.served, outcome.prefix_cache, own)
    return f"| {' | '.join(cells)} |\n"
