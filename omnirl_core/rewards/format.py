"""Does a completion keep to `<think>...</think><answer>...</answer>`?"""

from collections.abc import Sequence

from omnirl_core.text import ORDER, Tag, find_tags, parse_response, without_end_marker


def think_format(completion: str, *, partial: bool = False, think_opened: bool = False) -> float:
    """1.0 for one thought and one answer, each in its tags, not empty, and nothing else; otherwise 0.0.

    `partial` gives 0.25 for a thought, 0.25 for an answer, and 0.25 more for the two in order. `think_opened`
    is for chat templates that have written `<think>` already.

    >>> think_format("<think>2 + 2</think><answer>4</answer>"), think_format("4")
    (1.0, 0.0)
    >>> think_format("<think>2 + 2</think> so it is <answer>4</answer>", partial=True)
    0.75
    """
    text = "<think>" + completion if think_opened else completion
    if parse_response(text).well_formed:
        return 1.0
    return _partial(without_end_marker(text)) if partial else 0.0


def _partial(text: str) -> float:
    tags = find_tags(text)
    sections = _has_section(text, tags, ORDER[:2]) + _has_section(text, tags, ORDER[2:])
    in_order = sections == 2 and [tag.name for tag in tags] == ORDER
    return 0.25 * (sections + in_order)


def _has_section(text: str, tags: list[Tag], names: Sequence[str]) -> bool:
    """Is there one opening tag, then one closing tag, and something between them?"""
    own = [tag for tag in tags if tag.name in names]
    return [tag.name for tag in own] == list(names) and bool(text[own[0].end : own[1].start].strip())
