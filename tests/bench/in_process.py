"""The reference: mlx-lm's BatchGenerator in one process, driven over stdin and stdout.

Reads lines `{"rows", "prompt_tokens", "new_tokens", "seed"}`, answers each with
`{"tokens_per_second", "ttft_s": [...]}`. Same weights, dtype and BLAS as an engine has.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from mlxmesh_engine.forward.blas import prepare_blas
from tests.bench.bench_model import prompts


def main(directory: Path) -> None:
    """Load once, then answer until stdin ends."""
    prepare_blas()
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.utils import load_model

    model, _ = load_model(directory)
    model.update(tree_map(lambda array: array.astype(mx.float32), model.parameters()))
    mx.eval(model.parameters())
    print("ready", flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        work = prompts(ask["rows"], ask["prompt_tokens"], seed=ask["seed"])
        generator = BatchGenerator(model, max_tokens=ask["new_tokens"], completion_batch_size=256)
        start = time.perf_counter()
        waiting = set(generator.insert(work))
        first: dict[int, float] = {}
        tokens = 0
        while waiting:
            for response in generator.next_generated():
                first.setdefault(response.uid, time.perf_counter() - start)
                tokens += 1
                if response.finish_reason is not None:
                    waiting.discard(response.uid)
        seconds = time.perf_counter() - start
        generator.close()
        result = {"tokens_per_second": tokens / seconds, "ttft_s": sorted(first.values())}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
