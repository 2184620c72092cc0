"""Random outputs that a grammar allows, with a small tokenizer."""

import json
import random
from functools import cache
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from tokenizers import Tokenizer

_POCKET = Path(__file__).parents[4] / "deploy/demo-model/pocket/tokenizer.json"
_END = 1


class RandomOutputs:
    """A tokenizer whose markers are these tokens, and random outputs that a grammar allows."""

    def __init__(self, added: tuple[str, ...], ends: str = '"}])') -> None:
        """Tokens with one of `ends` are drawn more often, so that most outputs end."""
        state = json.loads(_POCKET.read_text())
        # Its own markers would be tokens also where the test is about markers that are text.
        state["added_tokens"] = [token for token in state["added_tokens"] if token["special"]]
        # Its token <|end|> ends an output; in gpt-oss it ends a message.
        text = json.dumps(state).replace('"<|end|>"', '"<|eos|>"')
        self._tokenizer = Tokenizer.from_str(text)
        self._tokenizer.add_tokens(list(added))
        self._added = frozenset(added)
        self._ends = ends
        self.llguidance = LLTokenizer(self._tokenizer.to_str(), eos_token=_END)
        self._mask = allocate_token_bitmask(1, self.llguidance.vocab_size)

    def token_id(self, text: str) -> int | None:
        return self._tokenizer.token_to_id(text) if text in self._added else None

    def matcher(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self.llguidance, LLMatcher.grammar_from_lark(grammar), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def accepts(self, grammar: str, output: str) -> bool:
        matcher = self.matcher(grammar)
        tokens = self._tokenizer.encode(output, add_special_tokens=False).ids
        return matcher.consume_tokens(tokens) and matcher.is_accepting()

    def output(self, grammar: str, seed: int, max_tokens: int = 400) -> str | None:
        """The text of random tokens; None if it has not ended after so many."""
        matcher, rng = self.matcher(grammar), random.Random(seed)
        tokens: list[int] = []
        for _ in range(max_tokens):
            fill_next_token_bitmask(matcher, self._mask)
            bits = np.unpackbits(self._mask[0].view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(bits).tolist()
            assert allowed, "stuck"
            if allowed == [_END] or (_END in allowed and rng.random() < 0.2):
                return self._tokenizer.decode(tokens, skip_special_tokens=False)
            token = rng.choices(allowed, [*map(self._weight, allowed)])[0]
            if token == _END:
                continue
            assert matcher.consume_token(token)
            tokens.append(token)
        return None

    @cache  # noqa: B019 lives as long as the tests
    def _weight(self, token: int) -> int:
        text = self.llguidance.decode_str([token])
        return 30 if any(end in text for end in self._ends) else 3 if text in ",\n" else 1
