"""Figures as plain text for a terminal."""

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lay out a head and its lines in columns: the first one to the left, the others to the right.

    >>> print(aligned([("", "rows"), ("score", "8")]))
           rows
    -----  ----
    score     8
    """
    head, *body = lines
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in [head, ["-" * width for width in widths], *body]
    )
