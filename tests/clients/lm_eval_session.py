# pyright: basic, reportMissingImports=false
"""Log-likelihoods by lm-evaluation-harness, as JSON: run by its environment's Python, not ours.

Usage: lm_eval_session.py URL_OF_V1 TOKENIZER_FOLDER, with pairs of context and continuation as
JSON on the standard input.
"""

from __future__ import annotations

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

BATCH_SIZE = 4


def main(url: str, tokenizer: str) -> None:
    pairs = json.load(sys.stdin)
    harness = LocalCompletionsAPI(
        base_url=f"{url}/completions",
        model="pocket",
        tokenizer=tokenizer,
        tokenizer_backend="huggingface",
        batch_size=BATCH_SIZE,
        max_retries=1,
    )
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=tuple(pair), idx=number)
        for number, pair in enumerate(pairs)
    ]
    found = harness.loglikelihood(requests, disable_tqdm=True)
    encoded = [harness._encode_pair(*pair) for pair in pairs]
    rows = [
        {"context": context, "continuation": continuation, "logprob": logprob, "greedy": greedy}
        for (context, continuation), (logprob, greedy) in zip(encoded, found, strict=True)
    ]
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
