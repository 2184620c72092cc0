"""Prompts of exactly so many tokens."""

import pytest

from tests.bench.peers.prompts import text_prompt


def tokens(text: str) -> int:
    """A tokenizer that cuts words into pieces of three letters."""
    return sum(-(-len(word) // 3) for word in text.split())


@pytest.mark.parametrize("count", [1, 2, 7, 64, 200])
@pytest.mark.parametrize("seed", range(5))
def test_the_text_has_the_tokens_asked_for(count: int, seed: int):
    assert tokens(text_prompt(tokens, count, seed=seed)) == count


def test_a_seed_is_a_text():
    assert text_prompt(tokens, 20, seed=1) == text_prompt(tokens, 20, seed=1)
    assert text_prompt(tokens, 20, seed=1) != text_prompt(tokens, 20, seed=2)


def test_a_tokenizer_that_cannot_be_met_is_refused():
    with pytest.raises(ValueError, match="one token"):
        text_prompt(lambda text: 2 * len(text.split()), 7, seed=0)
