"""Builds the tokenizer that both models share: byte-level BPE, 1,024 entries, single digits.

Every language and emoji round-trips, because all 256 bytes are in the vocabulary.
"""

import argparse
import random
from pathlib import Path

from chat import SPECIAL, VISIBLE, Renderer
from corpus import training_example
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from words import CITIES, NAMES, WORDS

VOCABULARY = 1024
# Words with their leading space, one digit at a time, marks, white space.
SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def _untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _corpus(seed: int, examples: int) -> list[str]:
    """Return generated text, with every listed word often enough to become one token."""
    rng = random.Random(seed)
    tokenizer = _untrained()
    tokenizer.add_special_tokens(list(SPECIAL))
    renderer = Renderer(tokenizer)
    text = [renderer.text(training_example(rng)) for _ in range(examples)]
    listed = [f"{word} {word}" for word in NAMES + CITIES + WORDS]
    return text + listed * (examples // 60)


def build(seed: int = 1, examples: int = 20_000) -> Tokenizer:
    """Train the tokenizer; the same arguments give the same file."""
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(VISIBLE),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = _corpus(seed, examples)
    for marker in (*SPECIAL, *VISIBLE):
        texts = [text.replace(marker, "\n") for text in texts]
    tokenizer = _untrained()
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(list(VISIBLE))
    return tokenizer


def main() -> None:
    """Write tokenizer.json to the given path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "tokenizer.json")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tokenizer = build(arguments.seed)
    tokenizer.save(str(arguments.output))
    print(f"{arguments.output}: {tokenizer.get_vocab_size()} entries")


if __name__ == "__main__":
    main()
