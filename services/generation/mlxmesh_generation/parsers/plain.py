"""Output that is text only. Pure."""

from mlxmesh_generation.parsers.parts import Part, TextPart


class PlainText:
    """Satisfies OutputParser: all of it is for the caller."""

    in_reasoning = False

    def feed(self, text: str) -> list[Part]:
        return [TextPart(text)] if text else []

    def flush(self) -> list[Part]:
        return []
