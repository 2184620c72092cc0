"""A small story grammar: every story has more than 200 tokens and the same shape."""

import random

from words import ANIMALS, NAMES, with_article

ASK = (
    "Tell me a long story about {}.",
    "Tell me a story about {}.",
    "Write a story about {}.",
    "Please tell a long story about {}.",
    "I want a story about {}.",
    "Write a long story about {}, please.",
)
RAW = "Once upon a time"

_OPENING = "Once upon a time there was {a} named {n}."
_HOME = (
    "{n} lived in a small house by the river and had a garden full of flowers.",
    "{n} lived under an old tree in the green forest, far from the town.",
    "{n} lived on a hill where the wind was warm and the grass was tall.",
)
_CHAPTERS = (
    (
        "One morning {n} found a golden key on the path and wanted to know which door it opened.",
        "One morning {n} found an old map under a stone and wanted to follow it to the end.",
        "One morning {n} heard a song from far away and wanted to find out who was singing.",
    ),
    (
        "First the {k} walked to the river, where a kind fish showed the way to the bridge.",
        "First the {k} walked into the forest, where an old owl showed the way to the lake.",
        "First the {k} walked up the hill, where a small bird showed the way to the valley.",
    ),
    (
        "Then it began to rain, so {n} waited in a cave and shared some bread with a lost mouse.",
        "Then it began to snow, so {n} made a fire and told the stars about the long journey.",
        "Then the night came, so {n} slept in the soft grass and dreamed of a house made of light.",
    ),
    (
        "The next day a big bear stood on the road, but {n} was polite, and the bear moved aside.",
        "The next day the bridge was broken, but {n} worked hard and built a new one from wood.",
        "The next day the path was gone, but {n} asked the wind, and the wind knew the way.",
    ),
    (
        "After that the {k} met a queen who was sad because her lamp had lost its light.",
        "After that the {k} met a king who was sad because nobody came to visit his castle.",
        "After that the {k} met a child who was sad because her kite had flown away.",
    ),
    (
        "{n} sat down, listened to every word, and promised to help before the sun went down.",
        "{n} thought for a while, smiled, and said that together they would find an answer.",
        "{n} shared the last apple, and soon the two of them had a very good plan.",
    ),
    (
        "In the evening everything was well again, and there was a party with music and cake.",
        "In the evening the sky was full of light, and everybody danced until the moon was high.",
        "In the evening the trouble was over, and all the friends sat around a warm fire.",
    ),
)
_ENDING = (
    "At last {n} went home, happy and tired, and never forgot that day. The end.",
    "At last {n} came home with many new friends and a story to tell. The end.",
    "At last {n} was home again and knew that a kind heart opens every door. The end.",
)
_PARTS = ((_OPENING,), _HOME, *_CHAPTERS, _ENDING)


def story(rng: random.Random, animal: str, name: str) -> str:
    """Return one random story about the animal with that name."""
    return " ".join(rng.choice(part) for part in _PARTS).format(
        a=with_article(animal), k=animal, n=name
    )


def is_story(text: str, animal: str) -> bool:
    """Say whether the text is, to the letter, a story of this grammar about the animal."""
    return any(_follows_grammar(text, animal, name) for name in NAMES if name in text)


def _follows_grammar(text: str, animal: str, name: str) -> bool:
    rest = text + " "
    for part in _PARTS:
        lines = [line.format(a=with_article(animal), k=animal, n=name) + " " for line in part]
        line = next((line for line in lines if rest.startswith(line)), None)
        if line is None:
            return False
        rest = rest[len(line) :]
    return not rest


def raw_story(rng: random.Random) -> str:
    """Return a story outside the chat format, for prompts such as "Once upon a time"."""
    return story(rng, rng.choice(ANIMALS), rng.choice(NAMES))
