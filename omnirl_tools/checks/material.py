"""Rewards that count the prompt's words lightly, on data whose answers are made of them."""

from collections.abc import Sequence

from omnirl_core.data import Record
from omnirl_core.rewards.overlap.content import languages_of, lexicon, question_of, split
from omnirl_core.rewards.overlap.words import plain, read_words
from omnirl_core.rewards.reward import Reward, signature_of
from omnirl_core.text import reference_texts

HIGH = 0.6
"""Share of the references' content words that stand in their prompts, from which a warning is given."""


def known_share(reference: str, problem: str) -> float:
    """Share of a reference's content words that the prompt says already, in [0, 1]; 0 where it has none.

    >>> round(known_share("It is foggy in Oslo, 4 degrees.", "Tell these facts. city: Oslo | sky: foggy | high: 4"), 2)
    0.75
    """
    words = read_words(reference, plain)
    languages = languages_of(problem) + languages_of(reference)
    n_all = len(split(words, lexicon("", languages)).content)
    n_new = len(split(words, lexicon(question_of(problem=problem), languages)).content)
    return 1 - n_new / n_all if n_all else 0.0


def material_warnings(rewards: Sequence[Reward], records: Sequence[Record]) -> list[str]:
    """A warning for each reward with `light` below 1, where prompts ask nothing and hold what the answers say."""
    readable = [(texts, record) for record in records if (texts := reference_texts(record.solution))]
    if not readable or any("?" in record.problem or "？" in record.problem for _, record in readable):
        return []
    share = sum(known_share(texts[0], record.problem) for texts, record in readable) / len(readable)
    if share < HIGH:
        return []
    return [
        f"warning: {reward.name} counts words of the prompt lightly, and {share:.0%} of the references' content words "
        "stand in their prompts; where answers are made of the prompt's words (data to text, summaries, rewriting), "
        "set `light: 1`"
        for reward in rewards
        if "light" in signature_of(reward.scorer).keywords and reward.settings.get("light", 0.0) < 1
    ]
