"""A text cut at its tokens, each with how surprising it is to the frozen scorer."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

#: nats from which on a token is one shade darker: a chance of less than 1 in 2, in 10, in 100, in 1,000
SHADE_NATS = (0.7, 2.3, 4.6, 6.9)


class Piece(NamedTuple):
    """Some characters of a text and their nats; None before the first token."""

    text: str
    nats: float | None

    @property
    def shade(self) -> int:
        """0, the likeliest, to len(SHADE_NATS)."""
        return 0 if self.nats is None else bisect_right(SHADE_NATS, self.nats)

    @property
    def space(self) -> str:
        """What stands before its first letter and is not shaded: where a line breaks, it would be a mark at its end."""
        return self.text[: len(self.text) - len(self.text.lstrip())]


def pieces(text: str, starts: Sequence[int], nats: Sequence[float]) -> Iterator[Piece]:
    """`text` from token to token. Tokens that are bytes of one character are one piece, with the sum of their nats."""
    waiting = None
    for (first, end), value in zip(pairwise([0, *starts, len(text)]), [None, *nats], strict=True):
        if value is not None:
            waiting = value if waiting is None else waiting + value
        if end > first:
            yield Piece(text[first:end], waiting)
            waiting = None
