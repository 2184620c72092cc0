"""What a bare Python process does up to its first token: import mlx-lm, load the model, prefill.

Prints a line at the first token and ends. Source: the usage that mlx-lm's README shows.
"""

from __future__ import annotations

import sys


def main(directory: str, prompt: str) -> None:
    """One token of a prompt."""
    from mlx_lm import load, stream_generate

    model, tokenizer, *_ = load(directory)
    next(iter(stream_generate(model, tokenizer, prompt, max_tokens=1)))
    print("first token", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
