"""Scores a model folder: exact match per task on held-out prompts, decoded greedily.

    python deploy/demo-model/evaluate.py deploy/demo-model/pocket

An answer counts only when the whole text up to the end of turn is right, to the letter. For a
story, which has no single right answer, "right" means: a whole story of the story grammar about
the animal asked for, with at least 200 tokens, ended by the model itself.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

import mlx.core as mx  # noqa: E402
from corpus import sample  # noqa: E402
from examples import Example  # noqa: E402
from mlx_lm import batch_generate  # noqa: E402
from mlx_lm import load as load_folder  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from stories import is_story  # noqa: E402
from tasks import EVALUATED  # noqa: E402
from words import ANIMALS  # noqa: E402

MIN_STORY_TOKENS = 200


def held_out_examples(task: str, count: int, seed: int) -> list[Example]:
    """Return different held-out examples of a task; fewer where fewer exist."""
    rng = random.Random(f"{seed} {task}")
    found: dict[str, Example] = {}
    for _ in range(count * 20):
        example = sample(task, rng, held_out=True)
        found.setdefault(json.dumps(example.prompt), example)
        if len(found) == count:
            break
    return list(found.values())


def load(folder: Path) -> tuple[Any, Any]:
    """Return the model in float32 and its tokenizer."""
    model, tokenizer = load_folder(str(folder))[:2]
    model.set_dtype(mx.float32)
    return model, tokenizer


def answers(model: Any, tokenizer: Any, examples: list[Example], max_tokens: int) -> list[str]:
    """Return one greedy answer per example, decoded in one batch."""
    prompts = [
        tokenizer.apply_chat_template(
            each.prompt, tools=list(each.tools) or None, add_generation_prompt=True, tokenize=True
        )
        for each in examples
    ]
    prompts = [prompt if isinstance(prompt, list) else prompt["input_ids"] for prompt in prompts]
    return batch_generate(model, tokenizer, prompts, max_tokens=max_tokens).texts


def is_right(example: Example, answer: str, tokens: int) -> bool:
    """Judge one answer that has this many tokens."""
    if example.task != "story":
        return answer == example.messages[-1]["content"]
    question = example.messages[-2]["content"]
    animal = next(animal for animal in ANIMALS if f" {animal}" in question)
    return tokens >= MIN_STORY_TOKENS and is_story(answer, animal)


def score(model: Any, tokenizer: Any, task: str, count: int, seed: int) -> dict[str, Any]:
    """Return how many held-out answers of a task are right, and some that are not."""
    examples = held_out_examples(task, count, seed)
    texts = answers(model, tokenizer, examples, max_tokens=400 if task == "story" else 96)
    wrong = [
        {"question": example.messages[-2]["content"], "answer": text}
        for example, text in zip(examples, texts, strict=True)
        if not is_right(example, text, len(tokenizer.encode(text)))
    ]
    return {"right": len(examples) - len(wrong), "of": len(examples), "wrong": wrong[:5]}


def show(folder: Path, scores: dict[str, dict[str, Any]]) -> None:
    """Print the table of scores."""
    table = Table("task", "exact match", "right", "of", title=f"{folder.name}, held-out prompts")
    for task, each in scores.items():
        share = each["right"] / max(1, each["of"])
        table.add_row(task, f"{share:.1%}", str(each["right"]), str(each["of"]))
    Console().print(table)


def main() -> None:
    """Parse the command line, score, print and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="an mlx-lm model directory")
    parser.add_argument("--count", type=int, default=200, help="prompts per task")
    parser.add_argument("--seed", type=int, default=11, help="decides which held-out prompts")
    parser.add_argument("--tasks", nargs="+", choices=EVALUATED, default=EVALUATED)
    parser.add_argument("--json", type=Path, help="where to write the scores")
    arguments = parser.parse_args()
    model, tokenizer = load(arguments.folder)
    scores = {
        task: score(model, tokenizer, task, arguments.count, arguments.seed)
        for task in arguments.tasks
    }
    show(arguments.folder, scores)
    if arguments.json:
        arguments.json.write_text(json.dumps(scores, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
