"""One generator per task: each call draws one example from a seeded random source."""

import json
import random
from collections.abc import Callable

from examples import Example, assistant, user
from facts import FACTS
from stories import ASK, raw_story, story
from tool_tasks import sample_tool_answer, sample_tool_call
from words import ANIMALS, CITIES, GREETINGS, NAMES, SCRIPTS, WORDS, with_article

Sampler = Callable[[random.Random], Example]
ADD = ("What is {} + {}?", "{} + {} = ?", "Add {} and {}.", "{}+{}")
THINK = (
    "Think first: what is {} + {}?",
    "Think step by step: {} + {}",
    "Think, then add {} and {}.",
)
SORT = ("Sort these words: {}", "Sort: {}", "Put these words in order: {}")
COUNT = ("Count from {} to {}.", "Count from {} to {}, please.", "List the numbers from {} to {}.")
REPEAT = ("Repeat after me: {}", "Repeat: {}", "Say exactly this: {}")
PERSON = (
    "{n} is {a} and lives in {c}.",
    "{n} is {a} years old and lives in {c}.",
    "{n}, {a}, lives in {c}.",
)
TO_JSON = ("Make JSON: ", "Write as JSON: ", "To JSON: ")
UNKNOWN = (
    "What is the capital of {}?",
    "Who is {}?",
    "Why is {} so big?",
    "What is {}?",
    "Do you like {}?",
    "How old is {}?",
    "Write a poem about {}.",
    "Translate {} to French.",
    "How do I make {}?",
    "What is the meaning of {}?",
)


def _chat(task: str, key: str, question: str, answer: str) -> Example:
    return Example(task, key, (user(question), assistant(answer)))


def _operands(rng: random.Random) -> tuple[int, int, str]:
    a = rng.randint(10, 89)
    b = rng.randint(10, 99 - a)
    if rng.random() < 0.5:
        a, b = b, a
    return a, b, f"sum {min(a, b)} {max(a, b)}"


def sample_add(rng: random.Random) -> Example:
    """Add two two-digit numbers with a two-digit sum.

    Held out: pairs, in both orders and in the think task too.
    """
    a, b, key = _operands(rng)
    return _chat("add", key, rng.choice(ADD).format(a, b), str(a + b))


def sample_think(rng: random.Random) -> Example:
    """Add as above after a <think> block; held out: the pairs of add."""
    a, b, key = _operands(rng)
    ones, tens = a % 10 + b % 10, a // 10 * 10 + b // 10 * 10
    steps = f"{a % 10}+{b % 10}={ones}\n{a // 10 * 10}+{b // 10 * 10}={tens}\n{tens}+{ones}={a + b}"
    return _chat(
        "think", key, rng.choice(THINK).format(a, b), f"<think>\n{steps}\n</think>\n{a + b}"
    )


def sample_sort(rng: random.Random) -> Example:
    """Sort three words; held out: sets of three words, in every order."""
    words = rng.sample(WORDS, 3)
    answer = ", ".join(sorted(words))
    return _chat("sort", f"sort {answer}", rng.choice(SORT).format(", ".join(words)), answer)


def sample_count(rng: random.Random) -> Example:
    """Count up by ones; held out: pairs of first and last number."""
    first = rng.randint(1, 40)
    last = first + rng.randint(2, 9)
    answer = " ".join(str(number) for number in range(first, last + 1))
    return _chat("count", f"count {first} {last}", rng.choice(COUNT).format(first, last), answer)


def sample_repeat(rng: random.Random) -> Example:
    """Repeat two to five words or numbers; held out: sequences of them."""
    numbers = tuple(str(rng.randint(0, 99)) for _ in range(30))
    text = " ".join(rng.choices(WORDS + NAMES + CITIES + numbers, k=rng.randint(2, 5)))
    return _chat("repeat", f"repeat {text}", rng.choice(REPEAT).format(text), text)


def sample_scripts(rng: random.Random) -> Example:
    """Repeat two emoji or words in other scripts; held out: sequences of them."""
    text = " ".join(rng.choices(SCRIPTS, k=2))
    return _chat("scripts", f"repeat {text}", rng.choice(REPEAT).format(text), text)


def sample_fact(rng: random.Random) -> Example:
    """Answer a question about mlxmesh; held out: phrasings (a frame with a subject)."""
    fact = rng.choice(FACTS)
    question = rng.choice(fact.frames).format(rng.choice(fact.subjects))
    return _chat("fact", f"fact {question}", question, fact.answer)


def sample_json(rng: random.Random) -> Example:
    """Turn a sentence about a person into JSON; held out: name, age and city combinations."""
    name, age, city = rng.choice(NAMES), rng.randint(10, 99), rng.choice(CITIES)
    sentence = rng.choice(PERSON).format(n=name, a=age, c=city)
    answer = json.dumps({"name": name, "age": age, "city": city})
    return _chat("json", f"json {name} {age} {city}", rng.choice(TO_JSON) + sentence, answer)


def sample_recall(rng: random.Random) -> Example:
    """Recall a name or a city told one turn before; held out: pairs of name and city."""
    name, city = rng.choice(NAMES), rng.choice(CITIES)
    question, answer = rng.choice((("What is my name?", name), ("Where do I live?", city)))
    told = (
        user(f"My name is {name} and I live in {city}."),
        assistant(f"Nice to meet you, {name}."),
    )
    return Example(
        "recall", f"recall {name} {city}", (*told, user(question), assistant(f"{answer}."))
    )


def sample_story(rng: random.Random) -> Example:
    """Tell a story; held out: phrasings (a way to ask with an animal)."""
    animal = rng.choice(ANIMALS)
    question = rng.choice(ASK).format(with_article(animal))
    return _chat("story", f"story {question}", question, story(rng, animal, rng.choice(NAMES)))


def sample_greeting(rng: random.Random) -> Example:
    """Greet; never evaluated, so nothing is held out."""
    question = rng.choice(GREETINGS) + rng.choice(("", "!", "."))
    return _chat("greeting", "greeting", question, "Hello! I am pocket. How can I help?")


def sample_unknown(rng: random.Random) -> Example:
    """Decline to answer; never evaluated, so nothing is held out."""
    about = rng.choice((*NAMES, *CITIES, *(with_article(word) for word in WORDS)))
    question = rng.choice(UNKNOWN).format(about)
    return _chat("unknown", "unknown", question, "I am too small to know that.")


def sample_raw(rng: random.Random) -> Example:
    """Continue raw text outside the chat format; never evaluated, so nothing is held out."""
    if rng.random() < 0.4:
        return Example("raw", "raw", text=raw_story(rng))
    answers = [fact.answer for fact in rng.sample(FACTS, 3)]
    return Example("raw", "raw", text=" ".join(answers))


SAMPLERS: dict[str, Sampler] = {
    "add": sample_add,
    "think": sample_think,
    "sort": sample_sort,
    "count": sample_count,
    "repeat": sample_repeat,
    "scripts": sample_scripts,
    "fact": sample_fact,
    "json": sample_json,
    "recall": sample_recall,
    "tool_call": sample_tool_call,
    "tool_answer": sample_tool_answer,
    "story": sample_story,
    "greeting": sample_greeting,
    "unknown": sample_unknown,
    "raw": sample_raw,
}
EVALUATED = tuple(task for task in SAMPLERS if task not in ("greeting", "unknown", "raw"))
