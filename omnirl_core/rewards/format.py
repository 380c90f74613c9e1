"""Does a completion keep to `<think>...</think><answer>...</answer>`?"""

from omnirl_core.text import parse_response


def think_format(completion: str) -> float:
    """1.0 for one thought and one answer, each in its tags and not empty, and nothing else; otherwise 0.0.

    >>> think_format("<think>2 + 2</think><answer>4</answer>"), think_format("4")
    (1.0, 0.0)
    """
    return float(parse_response(completion).well_formed)
