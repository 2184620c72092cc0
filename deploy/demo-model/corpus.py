"""The training mixture: weights per task, multi-turn joins, held-out filter, batches."""

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from chat import Renderer
from examples import Example, system
from tasks import SAMPLERS
from tokenizers import Tokenizer
from tool_tasks import TOOLS

# Share of examples (not of tokens) per task; the tasks that lagged have more.
WEIGHTS = {
    "add": 38,
    "think": 7,
    "sort": 14,
    "count": 18,
    "repeat": 15,
    "scripts": 5,
    "fact": 3,
    "json": 2.5,
    "recall": 4,
    "tool_call": 2,
    "tool_answer": 0.7,
    "story": 1.2,
    "greeting": 1,
    "unknown": 3,
    "raw": 0.6,
}
SYSTEMS = ("You are a helpful assistant.", "You are pocket.", "Be brief.")
SINGLE_TURN = ("recall", "story", "greeting", "raw", "tool_call", "tool_answer")
PROMPT_WEIGHT = 0.1  # Loss weight of tokens that the model reads rather than writes.
MULTIPLE = 8  # Padded lengths are multiples of this: few shapes, little padding.
MAX_TOKENS = 512


def training_example(rng: random.Random) -> Example:
    """Return one example whose every turn is outside the held-out split."""
    example = _single(rng)
    if example.task not in SINGLE_TURN and rng.random() < 0.15:
        example = _joined(example, _single(rng))
    if example.task in ("greeting", "fact") and rng.random() < 0.2:
        tools = rng.sample(tuple(TOOLS.values()), rng.randint(1, 2))
        example = replace(example, tools=tuple(tools))
    if example.messages and rng.random() < 0.1:
        opening = system(rng.choice(SYSTEMS))
        example = replace(example, messages=(opening, *example.messages))
    return example


def _joined(first: Example, second: Example) -> Example:
    """Return both as one conversation; what there is to recall is asked for at its end."""
    if second.task == "recall":
        messages = (*second.messages[:2], *first.messages, *second.messages[2:])
    elif second.task in SINGLE_TURN:
        return first
    else:
        messages = first.messages + second.messages
    return Example("turns", f"{first.key}\n{second.key}", messages)


def _single(rng: random.Random) -> Example:
    task = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
    return sample(task, rng, held_out=False)


def sample(task: str, rng: random.Random, *, held_out: bool) -> Example:
    """Draw examples of a task until one lies on the wanted side of the split."""
    while True:
        example = SAMPLERS[task](rng)
        if example.held_out == held_out:
            return example


class Batcher:
    """Endless length-bucketed batches; pool number and seed alone decide what is in them."""

    def __init__(self, tokenizer: Tokenizer, seed: int, batch_tokens: int) -> None:
        self._renderer = Renderer(tokenizer)
        self._seed = seed
        self._batch_tokens = batch_tokens

    def pool(self, number: int, size: int = 3000) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ``(batch, length)`` int32 ids and float32 loss weights of one pool, shuffled."""
        rng = random.Random(f"{self._seed} {number}")
        rows = [self._encode(training_example(rng)) for _ in range(size)]
        rows = [row for row in rows if len(row[0]) <= MAX_TOKENS]
        rows.sort(key=lambda row: len(row[0]))
        batches = list(self._cut(rows))
        rng.shuffle(batches)
        for batch in batches:
            yield _pad(batch)

    def _encode(self, example: Example) -> tuple[list[int], list[float]]:
        return self._renderer.encode(example, prompt_weight=PROMPT_WEIGHT)

    def _cut(self, rows: list[tuple[list[int], list[float]]]) -> Iterator[list[tuple]]:
        while rows:
            width = _padded(len(rows[0][0]))
            count = max(1, self._batch_tokens // width)
            fitting = [row for row in rows[:count] if len(row[0]) <= width]
            yield fitting
            rows = rows[len(fitting) :]


def _padded(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def _pad(rows: list[tuple[list[int], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    width = _padded(max(len(ids) for ids, _ in rows))
    ids = np.zeros((len(rows), width), np.int32)
    weights = np.zeros((len(rows), width), np.float32)
    for row, (tokens, token_weights) in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        weights[row, : len(tokens)] = token_weights
    return ids, weights
