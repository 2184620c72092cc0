"""How the rows of a batch may go through a model. Pure."""

from enum import Enum


class Batching(Enum):
    TOGETHER = "together"
    """Prompts of close lengths are prefilled in one padded pass, and all rows decode in one."""
    EQUAL_LENGTHS = "equal lengths"
    """Padding would enter the model's state: only prompts of equal length are prefilled in one."""
    ALONE = "alone"
    """Each row goes through the model by itself, on mlx-lm's own caches for one sequence."""
