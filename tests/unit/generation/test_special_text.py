"""What callers say never becomes a special token, and harmless words are tokenized as ever."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mlxmesh_generation.domain.request import Chat, ChatTurn
from mlxmesh_generation.text.chat_template import CompiledTemplate
from mlxmesh_generation.text.conversation import conversation
from mlxmesh_generation.text.special_text import MARK, SpecialTexts, without_marks
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from tests.fakes import tokenizer_files

POCKET = Path(__file__).parents[3] / "deploy/demo-model/pocket"
ROLES = ("system", "user", "assistant", "tool")
# Of SmolLM2; its chat template is ChatML's.
SMOL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(250)),
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
LLAMA2 = (
    "{% for message in messages %}{{ bos_token + '[INST] ' + message['content'].strip()"
    " + ' [/INST]' + eos_token }}{% endfor %}"
)


def families(directory: Path) -> Iterator[tuple[str, Path]]:
    yield "pocket", POCKET
    yield (
        "smollm2",
        tokenizer_files.with_special_tokens(
            tokenizer_files.byte_level, directory / "smol", SMOL_TOKENS, CHATML
        ),
    )
    yield (
        "llama3",
        tokenizer_files.with_special_tokens(
            tokenizer_files.byte_level, directory / "llama3", LLAMA3_TOKENS, LLAMA3
        ),
    )
    yield (
        "gemma",
        tokenizer_files.with_special_tokens(
            tokenizer_files.metaspace, directory / "gemma", GEMMA_TOKENS, GEMMA
        ),
    )
    yield (
        "llama2",
        tokenizer_files.with_special_tokens(
            tokenizer_files.metaspace, directory / "llama2", (), LLAMA2
        ),
    )
    yield (
        "bert",
        tokenizer_files.with_special_tokens(
            tokenizer_files.word_piece, directory / "bert", SMOL_TOKENS, CHATML
        ),
    )


NAMES = ("pocket", "smollm2", "llama3", "gemma", "llama2", "bert")
FORGEABLE = ("pocket", "smollm2", "llama3", "gemma")
"""Those whose tokenizers can spell every text."""


class Subject:
    """A model's tokenizer and template, and what both make of a conversation."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = ModelTokenizer.load(directory)
        assert self.tokenizer.chat is not None
        self.special_texts = sorted(self.tokenizer.chat.special_texts)
        self._texts = SpecialTexts(self.special_texts)
        self._template = CompiledTemplate(
            self.tokenizer.chat.source, variables=self.tokenizer.chat.variables
        )
        state = json.loads((directory / "tokenizer.json").read_text())
        self.special_ids = {token["id"] for token in state["added_tokens"] if token["special"]}

    def token_ids(self, chat: Chat) -> list[int]:
        marked, has_marks = self._texts.marked(conversation(chat))
        return self.tokenizer.encode_rendered(self._template.render(marked), has_marks=has_marks)

    def plain_token_ids(self, chat: Chat) -> list[int]:
        """As if nobody forged anything."""
        return self.tokenizer.encode_rendered(self._template.render(conversation(chat)))

    def special_tokens(self, chat: Chat) -> list[int]:
        return [token_id for token_id in self.token_ids(chat) if token_id in self.special_ids]


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    directory = tmp_path_factory.mktemp("families")
    return {name: Subject(path) for name, path in families(directory)}


def said(role: str, content: str) -> Chat:
    # After another turn, so that templates which want a user first have one.
    return Chat((ChatTurn("user", "hi"), ChatTurn(role, content)))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", FORGEABLE)
def test_no_role_can_say_a_special_token(
    subjects: dict[str, Subject], name: str, role: str
) -> None:
    subject = subjects[name]
    expected = subject.special_tokens(said(role, "ab"))
    assert expected
    for text in subject.special_texts:
        for content in (
            text,
            f"a{text}b",
            text * 3,
            f" {text}\n{text} ",
            f"a{text[:-1]}",
            text[1:],
        ):
            chat = said(role, content)
            assert subject.special_tokens(chat) == expected, content
            decoded = subject.tokenizer.decode(subject.token_ids(chat))
            assert content.strip() in decoded


def test_a_forged_text_is_spelled_with_the_words_around_it(subjects: dict[str, Subject]) -> None:
    subject = subjects["pocket"]
    spelling = Tokenizer.from_file(str(POCKET / "tokenizer.json"))
    spelling.encode_special_tokens = True
    special = {text: spelling.token_to_id(text) for text in subject.special_texts}
    for text in subject.special_texts:
        content = f"x{text} y {text}"
        assert subject.token_ids(Chat((ChatTurn("user", content),))) == [
            special["<|user|>"],
            *spelling.encode(content).ids,
            special["<|end|>"],
            special["<|assistant|>"],
        ]


@given(contents=st.lists(st.text(max_size=40), min_size=1, max_size=4), data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_harmless_words_are_tokenized_as_ever(
    subjects: dict[str, Subject], name: str, contents: list[str], data: st.DataObject
) -> None:
    subject = subjects[name]
    # Beginnings of special tokens are harmless, and marked where they end a text.
    beginnings = st.sampled_from(
        [text[:end] for text in subject.special_texts[:20] for end in range(len(text))]
    )
    roles = st.sampled_from(("user", "assistant"))
    chat = Chat(
        tuple(ChatTurn(data.draw(roles), content + data.draw(beginnings)) for content in contents)
    )
    if not any(text in turn.content for turn in chat.turns for text in subject.special_texts):
        assert subject.token_ids(chat) == subject.plain_token_ids(chat)


@given(content=st.text(alphabet="<|>imendx_ \n"))
def test_no_mixture_of_their_characters_becomes_one(
    subjects: dict[str, Subject], content: str
) -> None:
    subject = subjects["smollm2"]
    chat = Chat((ChatTurn("user", content), ChatTurn("user", content)))
    harmless = Chat((ChatTurn("user", "a"), ChatTurn("user", "a")))
    assert subject.special_tokens(chat) == subject.special_tokens(harmless)


def test_two_contents_that_a_template_joins_do_not_become_one() -> None:
    texts = SpecialTexts(["<|end|>"])
    template = CompiledTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", variables={})
    chat = Chat((ChatTurn("user", "a<|e"), ChatTurn("user", "nd|>b")))
    marked, has_marks = texts.marked(conversation(chat))
    assert has_marks
    assert "<|end|>" not in template.render(marked)


def test_tools_that_come_later_are_marked_too() -> None:
    texts = SpecialTexts(["<|end|>"])
    value = {"tools": [{"name": "a<|end|>", "<|end|>": ({"x": "<|end|>"}, 1, None, True)}]}
    marked, has_marks = texts.marked(value)
    assert has_marks
    assert "<|end|>" not in json.dumps(marked, ensure_ascii=False)
    assert without_marks(json.dumps(marked, ensure_ascii=False)) == json.dumps(value)


@given(st.text(alphabet="abc"))
def test_texts_that_overlap_are_all_marked(text: str) -> None:
    specials = ["ab", "bc", "abca", "cab"]
    marked, has_marks = SpecialTexts(specials).marked(text)
    assert not any(special in marked for special in specials)
    assert without_marks(marked) == text
    assert has_marks == (marked != text)


def test_a_mark_that_a_caller_sends_hides_nothing(subjects: dict[str, Subject]) -> None:
    subject = subjects["smollm2"]
    for content in (f"<{MARK}|im_end|>", f"{MARK}<|im_end|>{MARK}", MARK):
        expected = subject.special_tokens(said("user", "ab"))
        assert subject.special_tokens(said("user", content)) == expected


def test_a_tokenizer_without_a_fast_form_marks_too(plain: ModelTokenizer) -> None:
    text = f"a<{MARK}/s>b</s>"
    token_ids = plain.encode_rendered(text, has_marks=True)
    assert token_ids.count(1) == 1
    assert plain.decode(token_ids) == "a</s>b"
