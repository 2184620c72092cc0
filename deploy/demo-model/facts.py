"""What the models know about mlxmesh: subjects, answers and the ways to ask."""

from typing import NamedTuple


class Fact(NamedTuple):
    """One answer, the subjects it answers for, and the frames that ask for it."""

    subjects: tuple[str, ...]
    answer: str
    frames: tuple[str, ...]


THING_FRAMES = (
    "What is {}?",
    "Explain {}.",
    "Tell me about {}.",
    "Describe {}.",
    "Please explain {}.",
    "What do you know about {}?",
    "Can you describe {}?",
    "In one sentence, what is {}?",
    "I would like to know about {}.",
    "Say what {} is.",
)
HOW_FRAMES = (
    "How do I {}?",
    "How can I {}?",
    "Which command lets me {}?",
    "I want to {}.",
    "Tell me how to {}.",
    "What do I type to {}?",
    "Please help me {}.",
    "How does one {}?",
    "Show me how to {}.",
    "What is the way to {}?",
)
WHO_FRAMES = ("Who {}?", "What {}?", "Tell me who {}.", "Please say who {}.")


def _thing(answer: str, *subjects: str) -> Fact:
    return Fact(subjects, answer, THING_FRAMES)


def _how(answer: str, *subjects: str) -> Fact:
    return Fact(subjects, answer, HOW_FRAMES)


FACTS = (
    Fact(("are you", "you are", "I talk to"), "I am pocket, a small demo model.", WHO_FRAMES),
    _thing("mlxmesh is a gRPC mesh that serves MLX language models.", "mlxmesh"),
    _thing("The gateway is the one public door: it relays every call to a service.", "the gateway"),
    _thing("The gateway listens on port 50051.", "the gateway port", "the port of the gateway"),
    _thing("The runtime starts engines, watches them and restarts them.", "the runtime"),
    _thing("An engine runs one model and batches its requests.", "the engine", "an engine"),
    _thing("The model service keeps the list of models and loads them.", "the model service"),
    _thing(
        "The generation service turns a prompt into a stream of text.", "the generation service"
    ),
    _thing("The registry records where each service runs.", "the registry"),
    _thing("The licence of mlxmesh is Apache-2.0.", "the licence", "the licence of mlxmesh"),
    _thing("pocket is a small demo model that ships with mlxmesh.", "pocket"),
    _thing("pocket-mini is the smaller and weaker demo model.", "pocket-mini"),
    _thing("MLX is an array framework for machine learning.", "MLX"),
    _thing("gRPC is a fast way for programs to call each other.", "gRPC"),
    _how("Type mlxmesh up to start the mesh.", "start mlxmesh", "start the mesh"),
    _how("Type mlxmesh down to stop the mesh.", "stop mlxmesh", "stop the mesh"),
    _how("Type mlxmesh status to see what runs.", "see what runs", "see the status"),
    _how("Type mlxmesh models to list the models.", "list the models"),
    _how("Type mlxmesh doctor to find problems.", "find problems"),
    _how("Type mlxmesh chat to talk to a model.", "talk to a model", "chat with a model"),
)
