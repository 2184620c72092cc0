"""Trains a demo model on generated data: seeded, resumable, float32, one process.

    python deploy/demo-model/train.py --model pocket --minutes 60

Stop it with Ctrl-C and run the same command again: it goes on from the last checkpoint.
The learning rate warms up and then falls in a straight line to nothing at the end of the run.
"""

import argparse
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from checkpoint import Progress, load, save  # noqa: E402
from corpus import Batcher  # noqa: E402
from mlx.nn import Module  # noqa: E402
from mlx.nn.losses import cross_entropy  # noqa: E402
from mlx.nn.utils import value_and_grad  # noqa: E402
from mlx.optimizers import AdamW, MultiOptimizer, Muon  # noqa: E402
from mlx.utils import tree_map  # noqa: E402
from model_folder import CHECKPOINTS, SIZES, TOKENIZER_PATH, export, new_model  # noqa: E402
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn  # noqa: E402
from rich.progress import Progress as Bar  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

Step = Callable[[mx.array, mx.array, float], mx.array]
WARMUP_STEPS = 60


def rate(step: int, done: float, decay: float) -> float:
    """Return the learning-rate factor, 0 to 1: warm up, hold, fall over the last ``decay``."""
    return min(1.0, (step + 1) / WARMUP_STEPS, max(0.0, 1.0 - done) / decay)


def weighted_loss(model: Module, ids: mx.array, weights: mx.array) -> mx.array:
    """Return the weighted sum of the cross entropies of ``(batch, length)`` ids."""
    logits = model(ids[:, :-1])
    losses = cross_entropy(logits, ids[:, 1:])
    return (losses * weights[:, 1:]).sum()


def make_optimizer() -> MultiOptimizer:
    """Return Muon for the matrices, AdamW for embeddings and norms."""
    adam = AdamW(learning_rate=0.0, betas=[0.9, 0.98], weight_decay=0.0)
    muon = Muon(learning_rate=0.0, weight_decay=0.0)
    return MultiOptimizer([muon, adam], [lambda name, _: "_proj" in name])


def make_step(
    model: Module, optimizer: MultiOptimizer, peaks: tuple[float, float], streams: int
) -> Step:
    """Return the update; it returns the loss of its batch.

    Each stream is a thread that works on its rows of the batch. Nothing is compiled: every batch
    shape would cost seconds of compiling and gain nothing on a CPU.
    """
    gradients_of = value_and_grad(model, weighted_loss)
    threads = [mx.new_stream(mx.default_device()) for _ in range(streams)]

    def step(ids: mx.array, weights: mx.array, factor: float) -> mx.array:
        weights = weights / weights[:, 1:].sum()
        mx.eval(weights)
        parts = []
        for index, thread in enumerate(threads[: len(ids)]):
            with mx.stream(thread):
                parts.append(gradients_of(model, ids[index::streams], weights[index::streams]))
        loss, gradients = parts[0]
        for other_loss, other in parts[1:]:
            loss, gradients = loss + other_loss, tree_map(mx.add, gradients, other)
        for each, peak in zip(optimizer.optimizers, peaks, strict=True):
            each.learning_rate = factor * peak
        optimizer.update(model, gradients)
        mx.eval(loss, model.parameters(), optimizer.state)
        return loss

    return step


def batches(batcher: Batcher, progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches for ever from where the progress stands."""
    skip = progress.batch
    while True:
        for index, batch in enumerate(batcher.pool(progress.pool)):
            if index >= skip:
                progress.batch = index + 1
                yield batch
        progress.pool, progress.batch, skip = progress.pool + 1, 0, 0


def train(arguments: argparse.Namespace) -> None:
    """Train until the time or the steps are used up, then write the model folder."""
    mx.random.seed(arguments.seed)
    tokenizer = Tokenizer.from_file(str(TOKENIZER_PATH))
    model, optimizer = new_model(arguments.model, tokenizer), make_optimizer()
    optimizer.init(model.trainable_parameters())
    folder = arguments.checkpoints / arguments.model
    progress = load(folder, model, optimizer)
    peaks = (arguments.muon_rate, arguments.adam_rate)
    step = make_step(model, optimizer, peaks, arguments.streams)
    source = batches(Batcher(tokenizer, arguments.seed, arguments.batch_tokens), progress)
    try:
        _loop(arguments, step, source, progress, lambda: save(folder, model, optimizer, progress))
    finally:
        save(folder, model, optimizer, progress)
    export(arguments.model, model.parameters(), arguments.output or folder / "model")


def _loop(
    arguments: argparse.Namespace,
    step: Step,
    source: Iterator[tuple[np.ndarray, np.ndarray]],
    progress: Progress,
    checkpoint: Callable[[], None],
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    average, saved, clock = 0.0, time.monotonic(), time.monotonic()
    with Bar(*columns) as bar:
        task = bar.add_task(arguments.model, total=1.0, completed=0)
        while (done := progress.done(arguments)) < 1.0:
            ids, weights = next(source)
            factor = rate(progress.step, done, arguments.decay)
            loss = step(mx.array(ids), mx.array(weights), factor).item()
            now = time.monotonic()
            progress.advance(tokens=int((weights > 0).sum()), seconds=now - clock)
            clock = now
            average = loss if not average else 0.98 * average + 0.02 * loss
            line = f"step {progress.step} loss {average:.3f} tokens {progress.tokens:,}"
            bar.update(task, completed=done, description=line)
            if progress.step % arguments.print_every == 0:
                bar.print(f"{line} {progress.tokens / progress.seconds:,.0f} tokens/s")
            if now - saved > arguments.save_every_s:
                checkpoint()
                saved = now


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=SIZES, default="pocket", help="which size to train")
    add("--minutes", type=float, default=60, help="training time in all, resumed runs included")
    add("--steps", type=int, help="steps in all instead of minutes: the same run every time")
    add("--seed", type=int, default=1, help="decides the weights at the start and the data")
    add("--checkpoints", type=Path, default=CHECKPOINTS, help="where to resume from")
    add("--output", type=Path, help="model folder to write at the end")
    add("--batch-tokens", type=int, default=1536, help="tokens per step")
    add("--streams", type=int, default=1, help="threads that share each batch: cores to use")
    add("--muon-rate", type=float, default=0.01, help="peak learning rate of the matrices")
    add("--adam-rate", type=float, default=0.002, help="peak learning rate of the rest")
    add("--decay", type=float, default=1.0, help="last share of the run with a falling rate")
    add("--print-every", type=int, default=50, help="steps between printed lines")
    add("--save-every-s", type=float, default=60, help="seconds between checkpoints")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        train(parser.parse_args())
    except KeyboardInterrupt:
        print("stopped and saved; the same command goes on from here")


if __name__ == "__main__":
    main()
