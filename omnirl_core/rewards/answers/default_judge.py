"""The judge of samples that name no task: short answers are right or wrong, sentences come nearer or not."""

from typing import Any

from omnirl_core.rewards.answers.answers import answer
from omnirl_core.rewards.overlap.overlap import overlap
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import references, tokens

LONGEST_TOKENS = 12
"""Of a short answer, so that a sentence without spaces (Chinese, Japanese) is not one word."""


@on_answer
def answer_or_overlap(
    prediction: str, solution: Any, *, most_words: int = 5, power: float = 2
) -> float | None:
    """`answer` for references of up to `most_words` words, `overlap` with `power` for longer ones, in [0, 1].

    None without a readable reference, and for a box: four numbers are no text. A formula or other word without
    spaces is short, whatever its length. With several references the longest decides.

    >>> answer_or_overlap("7", 7), answer_or_overlap("Seven", "a red car"), answer_or_overlap("1", [1, 2, 3, 4])
    (1.0, 0.0, None)
    >>> 0 < answer_or_overlap("a dog on a chair", "a small dog sits on a chair") < 1
    True
    """
    golds = references(solution)
    if golds is None or _is_box(solution):
        return None
    if all(_is_short(gold, most_words) for gold in golds):
        return answer(prediction, solution)
    return overlap(prediction, solution, power=power)


def _is_short(gold: str, most_words: int) -> bool:
    words = gold.split()
    if len(words) == 1 and gold.isascii():
        return True
    return len(words) <= most_words and len(tokens(gold)) <= LONGEST_TOKENS


def _is_box(solution: Any) -> bool:
    is_four = isinstance(solution, list | tuple) and len(solution) == 4
    return is_four and all(isinstance(side, int | float) for side in solution)
