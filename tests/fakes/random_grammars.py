"""Random regular expressions, grammars and choices."""

import json
import re

from hypothesis import strategies as st

from mlxmesh_engine.scheduling.request import GrammarKind
from tests.fakes.random_languages import BATCH, Language

# Each means the same to Python and to Rust, and none matches the empty text.
_PIECES = st.sampled_from(
    ["a", "[a-c]{1,3}", "[0-9]{2}", "é", "x?y", "[^a-z\\n]{1,2}", "日本?", "\\(", '"[a-z]*"']
)


def _joined(regexes: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    some = st.lists(regexes, min_size=1, max_size=3)
    return st.one_of(
        some.map("".join),
        some.map(lambda several: f"({'|'.join(several)})"),
        regexes.map(lambda one: f"({one}){{1,2}}"),
        st.builds(lambda one, other: f"{one}({other})?", regexes, regexes),
    )


_REGEXES = st.recursive(_PIECES, _joined, max_leaves=6)


def _by_regex(kind: GrammarKind, text: str, regex: str) -> Language:
    return Language(kind, text, lambda output: re.fullmatch(regex, output) is not None)


def _grammar(regexes: list[str], optional: bool) -> Language:
    """Parts with a dash after each, the last of which may be missing."""
    parts = " ".join(f'part{number} "-"' for number in range(len(regexes)))
    rules = "".join(f"part{number}: /{regex}/\n" for number, regex in enumerate(regexes))
    last = "last?" if optional else "last"
    lark = f'start: {parts} {last}\nlast: "end" | "(" last ")"\n{rules}'
    before = "".join(f"({regex})-" for regex in regexes)

    def has(output: str) -> bool:
        found = re.fullmatch(f"({before})(?P<open>\\(*)(?P<end>end)?(?P<close>\\)*)", output)
        if found is None or len(found["open"]) != len(found["close"]):
            return False
        return bool(found["end"]) or (optional and not found["open"])

    return Language(GrammarKind.LARK, lark, has)


def _choices(texts: list[str]) -> Language:
    return Language(GrammarKind.CHOICES, json.dumps(texts), lambda output: output in texts)


_TEXTS = st.text('abé "\\\n日', min_size=1, max_size=12)
_LANGUAGES = st.one_of(
    _REGEXES.map(lambda regex: _by_regex(GrammarKind.REGEX, regex, regex)),
    st.builds(_grammar, st.lists(_REGEXES, min_size=1, max_size=2), st.booleans()),
    st.lists(
        st.text('abé "\\\n日', min_size=1, max_size=12), min_size=1, max_size=5, unique=True
    ).map(_choices),
)
BATCHES = st.lists(_LANGUAGES, min_size=BATCH, max_size=BATCH)
