"""Why a chat template gave no text; each message goes on from "the model's chat template"."""


class TemplateUnusable(Exception):
    """It does not compile, fails, or exceeds its limits."""


class TemplateRefused(Exception):
    """It refuses the conversation, in words of its own; empty when they may not be repeated."""
