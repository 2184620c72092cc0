"""The demo models: what their data promises and what their folders hold."""

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "demo-model"
MODELS = ("pocket", "pocket-mini")
MAX_BYTES = 10_000_000
TEXTS = (
    "Hello, world! 12345",
    "🦊🌍👩‍👩‍👧 👋🏽",
    "Привет, мир",
    "你好，世界。ありがとう 안녕하세요",
    "नमस्ते मित्र",
    "שלום مرحبا",
    "Ünïcödé   three  spaces\n\ttabs\r\n",
)


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The generator's modules, importable while this module runs."""
    names = ("chat", "corpus", "examples", "facts", "stories", "tasks", "tool_tasks", "words")
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module", params=MODELS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(FOLDER / request.param))


def _sample(scripts: dict[str, ModuleType], seed: int, count: int) -> list[Any]:
    rng = random.Random(seed)
    return [scripts["corpus"].training_example(rng) for _ in range(count)]


def test_same_seed_gives_the_same_examples(scripts: dict[str, ModuleType]) -> None:
    assert _sample(scripts, 3, 300) == _sample(scripts, 3, 300)
    assert _sample(scripts, 3, 300) != _sample(scripts, 4, 300)


def test_every_task_occurs_in_the_training_data(scripts: dict[str, ModuleType]) -> None:
    seen = {example.task for example in _sample(scripts, 1, 4000)}
    assert seen == {*scripts["tasks"].SAMPLERS, "turns"}


def test_no_held_out_prompt_is_trained_on(scripts: dict[str, ModuleType]) -> None:
    """Held-out questions, in any turn, never occur in 20,000 training examples."""
    rng = random.Random(5)
    held_out = {
        json.dumps(scripts["corpus"].sample(task, rng, held_out=True).prompt)
        for task in scripts["tasks"].EVALUATED
        for _ in range(300)
    }
    for example in _sample(scripts, 2, 20_000):
        turns = [message for message in example.messages if message["role"] != "system"]
        assert json.dumps(turns[:-1]) not in held_out
        for message in turns:
            if example.task != "recall":
                assert json.dumps([message]) not in held_out


def test_held_out_sums_are_held_out_in_both_orders(scripts: dict[str, ModuleType]) -> None:
    rng = random.Random(6)
    pairs = {scripts["corpus"].sample("add", rng, held_out=True).key for _ in range(300)}
    for task in ("add", "think"):
        for _ in range(3000):
            assert scripts["corpus"].sample(task, rng, held_out=False).key not in pairs


def test_generated_stories_follow_the_grammar(scripts: dict[str, ModuleType]) -> None:
    stories, rng = scripts["stories"], random.Random(7)
    told = stories.story(rng, "fox", "Anna")
    assert stories.is_story(told, "fox")
    assert not stories.is_story(told, "owl")
    assert not stories.is_story(told.removesuffix(" The end."), "fox")
    assert not stories.is_story(told + " More.", "fox")


@pytest.mark.parametrize("text", TEXTS)
def test_every_script_round_trips(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_single_tokens(tokenizer: Any) -> None:
    ids = tokenizer.encode("0123456789")
    assert [tokenizer.decode([token]) for token in ids] == list("0123456789")
    merged = [entry for entry in tokenizer.get_vocab() if sum(map(str.isdigit, entry)) > 1]
    assert merged == []


def test_markers_are_single_tokens_and_only_roles_are_special(tokenizer: Any) -> None:
    for marker in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
        ids = tokenizer.encode(marker)
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == marker
    for marker in ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"):
        ids = tokenizer.encode(marker)
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    assert tokenizer.eos_token == "<|end|>"


def test_template_renders_tools_and_several_turns(
    tokenizer: Any, scripts: dict[str, ModuleType]
) -> None:
    tool = scripts["tool_tasks"].TOOLS["get_weather"]
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"degrees": 3}'},
        {"role": "assistant", "content": "It is 3 degrees."},
        {"role": "user", "content": "Hi"},
    ]
    text = tokenizer.apply_chat_template(
        messages, tools=[tool], add_generation_prompt=True, tokenize=False
    )
    assert text == (
        f"<|system|>Be brief.\nTools:\n{json.dumps(tool)}<|end|><|user|>Weather in Oslo?<|end|>"
        '<|assistant|><tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n'
        '</tool_call><|end|><|tool|>{"degrees": 3}<|end|>'
        "<|assistant|>It is 3 degrees.<|end|><|user|>Hi<|end|><|assistant|>"
    )


def test_template_is_the_one_trained_with(tokenizer: Any, scripts: dict[str, ModuleType]) -> None:
    """Transformers' rendering and the generator's own give the same prompts for every task."""
    core = pytest.importorskip("tokenizers").Tokenizer.from_str(
        tokenizer.backend_tokenizer.to_str()
    )
    renderer = scripts["chat"].Renderer(core)
    rng = random.Random(8)
    for task in scripts["tasks"].EVALUATED:
        example = scripts["corpus"].sample(task, rng, held_out=False)
        rendered = tokenizer.apply_chat_template(
            example.prompt,
            tools=list(example.tools) or None,
            add_generation_prompt=True,
            tokenize=False,
        )
        assert rendered == renderer.prompt(example)


@pytest.mark.parametrize("name", MODELS)
def test_folder_is_a_complete_llama(name: str) -> None:
    folder = FOLDER / name
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] == 16384
    ends = json.loads((folder / "generation_config.json").read_text())
    assert ends["eos_token_id"] == config["eos_token_id"]
    header = _safetensors_header(folder / "model.safetensors")
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"BF16"}


def _safetensors_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def test_both_models_stay_small() -> None:
    paths = [path for name in MODELS for path in (FOLDER / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) <= MAX_BYTES
