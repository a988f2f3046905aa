"""What is wrong with a user's data."""

from collections.abc import Iterable


class DataError(ValueError):
    """Problems in a user's files: all that were found, not just the first.

    Args:
        lines: One line for each problem, which begins with the file.

    Attributes:
        lines: The same, as a tuple.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__('\n'.join(self.lines))
