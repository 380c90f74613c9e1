"""Our Porter stemmer against nltk's."""

import random

from hypothesis import given
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer

from omnirl_core.rewards.overlap.wordnet import wordnet
from omnirl_core.rewards.overlap.words import IRREGULAR, StemTable, porter

ENDINGS = """
s ed ing ies ied eed y e ll sses ss er ly ational tional enci anci izer bli alli entli eli ousli ization
ation ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness
al ance ence ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize
""".split()  # noqa: SIM905


def differing(words):
    nltk_stem = PorterStemmer().stem
    return [(word, porter(word), nltk_stem(word)) for word in words if porter(word) != nltk_stem(word)]


def test_words_of_wordnet_and_irregular_ones():
    lemmas = random.Random(0).sample(sorted(wordnet().lemmas()), 10_000)
    assert differing([*lemmas, *IRREGULAR, *IRREGULAR.values()]) == []


def test_every_ending_on_many_beginnings():
    rng = random.Random(0)
    beginnings = ["".join(rng.choice("aeiouybstlgnd") for _ in range(rng.randint(0, 7))) for _ in range(300)]
    assert differing([beginning + ending for beginning in beginnings for ending in ENDINGS]) == []


@given(st.text("aeybstlz1", max_size=12), st.sampled_from(["", *ENDINGS]))
def test_any_letters(beginning, ending):
    assert differing([beginning + ending]) == []


def test_a_run_of_y_takes_linear_time_and_depth():
    assert porter("y" * 20_000) == PorterStemmer().stem("y" * 20_000)


def test_a_table_of_stems_stays_small():
    table = StemTable(most_words=10)
    words = [f"{word}s" for word in "abcdefghijklmnopqrstuvwxyz"]
    assert [table["cat" + word] for word in words] == [porter("cat" + word) for word in words]
    assert len(table) <= 10
