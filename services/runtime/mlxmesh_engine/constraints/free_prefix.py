"""Free output before constrained output, which ends with certain tokens. Pure."""

from mlxmesh_engine.scheduling.request import FreePrefix


class PrefixWalk:
    """How far a sequence is in its free prefix."""

    def __init__(self, prefix: FreePrefix) -> None:
        self._end = prefix.end_token_ids
        self._max_tokens = prefix.max_tokens
        self._borders = _borders(self._end)
        self._matched = 0
        """How many tokens of the end the output ends with."""
        self._tokens = 0

    @property
    def ended(self) -> bool:
        return self._matched == len(self._end)

    @property
    def forced(self) -> int | None:
        """The only token that is allowed next; None if others are too.

        If the output ends with a part of the end already, it is the token after that part.
        """
        if self._max_tokens is None or self._tokens < self._max_tokens:
            return None
        return self._end[self._matched]

    def consume(self, token: int) -> None:
        """Source: Knuth, Morris and Pratt (1977)."""
        self._tokens += 1
        while self._matched and token != self._end[self._matched]:
            self._matched = self._borders[self._matched - 1]
        if token == self._end[self._matched]:
            self._matched += 1


def _borders(tokens: tuple[int, ...]) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(tokens)
    length = 0
    for at in range(1, len(tokens)):
        while length and tokens[at] != tokens[length]:
            length = borders[length - 1]
        length += tokens[at] == tokens[length]
        borders[at] = length
    return borders
