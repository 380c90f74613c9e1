"""BLEU, ROUGE, METEOR and their mean: equal to nltk and rouge_score on request, right in every language."""

import itertools
import logging
import math
import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import sentence_bleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer

from omnirl_core.rewards import bleu, meteor, overlap, rouge
from omnirl_core.rewards.overlap.metrics import FREE, _say_once, align
from omnirl_core.rewards.overlap.words import MARKS, Words, read_words, wordnet
from omnirl_core.text import tokens

pytestmark = pytest.mark.filterwarnings("ignore:\\nThe hypothesis contains 0 counts")  # nltk's BLEU
VARIANTS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
METRICS = {
    "bleu": bleu,
    "meteor": meteor,
    "overlap": overlap,
    **{variant: lambda a, b, variant=variant, **k: rouge(a, b, variant, **k) for variant in VARIANTS},
}


class OurTable:
    """Our synonyms behind nltk's WordNet interface, so that nltk needs no corpus."""

    def synsets(self, word):
        return [self]

    def __init__(self, word=None):
        self.word = word

    def lemmas(self):
        return [Name(name) for name in wordnet()[self.word]]


class Name(str):
    def name(self):
        return str(self)


class NltkWordNet:
    def synsets(self, word):
        return [OurTable(word)]


# --- the oracles, on the same tokens ---


def nltk_bleu(prediction, references, max_order=4):
    weights = [1 / max_order] * max_order
    return float(sentence_bleu([tokens(reference) for reference in references], tokens(prediction), weights))


def nltk_meteor(prediction, references):
    return meteor_score([tokens(reference) for reference in references], tokens(prediction), wordnet=NltkWordNet())


def library_rouge(prediction, references, variant):
    return RougeScorer([variant], use_stemmer=True).score_multi(references, prediction)[variant].fmeasure


def original_accuracy(prediction, solution):
    """The original OmniRL's accuracy, written out from its definition."""

    def cleaned(text):
        return re.sub(r"[^\sa-zA-Z0-9]", "", text).split()

    two_grams = float(sentence_bleu([cleaned(solution)], cleaned(prediction), weights=(0.5, 0.5)))
    one_word = RougeScorer(["rouge1"], use_stemmer=True).score(solution, prediction)["rouge1"].fmeasure
    return (two_grams + one_word) / 2


WORDS = tokens(
    "the a cat cats big large dog dogs ran running runs quickly fast on in of bicycle bike automobile car cars "
    "picture image photo 12 twelve relational conditions happily sky skies dying"
)
WORDS += ["3.14", "it's", "U.S.", "Paris", "re-run,", "(happy)"]
ascii_texts = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join),
    st.lists(st.sampled_from([*WORDS[:12], "\n", "\n"]), max_size=30).map(" ".join),
    st.text(st.characters(max_codepoint=127), max_size=60),
)
reference_texts = ascii_texts.filter(str.strip)


@settings(max_examples=300, deadline=None)
@given(ascii_texts, st.lists(reference_texts, min_size=1, max_size=3), st.integers(1, 5))
def test_compat_equals_the_libraries(prediction, references, max_order):
    references = [reference.strip() for reference in references]
    assert bleu(prediction, references, max_order=max_order, compat="nltk") == pytest.approx(
        nltk_bleu(prediction, references, max_order), abs=1e-12
    )
    for variant in VARIANTS:
        got = rouge(prediction, references, variant, compat="rouge_score")
        assert got == pytest.approx(library_rouge(prediction, references, variant), abs=1e-12)
    assert meteor(prediction, references, compat="nltk") == pytest.approx(
        nltk_meteor(prediction, references), abs=1e-12
    )


@settings(max_examples=300, deadline=None)
@given(st.one_of(ascii_texts, st.text(max_size=40)), st.one_of(reference_texts, st.text(min_size=1, max_size=40)))
def test_preset_seed_equals_the_original_formula(prediction, solution):
    solution = solution.replace("<", " ").strip()
    if solution:
        expected = original_accuracy(prediction, solution)
        assert overlap(prediction, solution, preset="seed") == pytest.approx(expected, abs=1e-12)


def noisy_pairs(n, size):
    """Long texts with much in common, where alignments and repeated n-grams matter."""
    rng = random.Random(size)
    for _ in range(n):
        reference = [rng.choice(WORDS) for _ in range(size)]
        changed = [word if rng.random() < 0.7 else rng.choice(WORDS) for word in reference]
        cut = rng.randrange(size)
        yield " ".join(changed[cut:] + changed[:cut]), " ".join(reference)


@pytest.mark.parametrize("size", [3, 30, 200])
def test_compat_equals_the_libraries_on_long_shuffled_texts(size):
    for prediction, reference in noisy_pairs(20, size):
        assert bleu(prediction, reference, compat="nltk") == nltk_bleu(prediction, [reference])
        assert meteor(prediction, reference, compat="nltk") == nltk_meteor(prediction, [reference])
        for variant in VARIANTS:
            got = rouge(prediction, reference, variant, compat="rouge_score")
            assert got == library_rouge(prediction, [reference], variant)


@settings(max_examples=200, deadline=None)
@given(ascii_texts, reference_texts)
def test_rouge_on_ascii_is_the_librarys_without_asking(prediction, reference):
    if tokens(reference) and tokens(prediction) and not MARKS.search(reference + "\n" + prediction):
        for variant in ("rouge1", "rougeL"):
            assert rouge(prediction, reference, variant) == rouge(prediction, reference, variant, compat="rouge_score")


# --- our own definitions ---


def bleu_by_definition(prediction, reference):
    """Lin and Och's add-one BLEU with effective order, with fractions of lists instead of counters."""
    theirs, ours = tokens(prediction), tokens(reference)
    order, product = min(4, len(theirs), len(ours)), 1.0
    for n in range(1, order + 1):
        grams, pool = ([t[i : i + n] for i in range(len(t) - n + 1)] for t in (theirs, ours))
        matched = 0
        for gram in grams:
            if gram in pool:
                pool.remove(gram)
                matched += 1
        product *= (matched + (n > 1)) / (len(grams) + (n > 1))
    penalty = 1 if len(theirs) > len(ours) else math.exp(1 - len(ours) / len(theirs))
    return penalty * product ** (1 / order)


@given(st.lists(st.sampled_from("abcd"), min_size=1).map(" ".join), st.text("ab cd", min_size=1))
def test_bleu_is_what_its_definition_says(prediction, reference):
    if tokens(reference):
        assert bleu(prediction, reference) == pytest.approx(bleu_by_definition(prediction, reference), abs=1e-12)


def longest_common(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        row = list(
            itertools.accumulate(
                zip(row, row[1:], b, strict=False),
                lambda left, cell, x=x: cell[0] + 1 if cell[2] == x else max(left, cell[1]),
                initial=0,
            )
        )
    return row[-1]


@given(st.text("我爱北京上", min_size=1), st.text("我爱北京上", min_size=1))
def test_rouge_l_is_the_longest_common_subsequence_in_any_script(prediction, reference):
    common = longest_common(prediction, reference)
    assert rouge(prediction, reference) == pytest.approx(2 * common / (len(prediction) + len(reference)))


LANGUAGES = [
    "B", "42", "Paris", "red car", "A dog runs over the green hill.", "не знаю", "我", "我爱北京天安门", "東京タワー",
    "서울은 수도이다", "مرحبا بالعالم", "नमस्ते दुनिया", "ผมรักเมืองไทย", "Größe: 3,5 m", "😀", "😀 😡", "!!!", "x = -5",
    "word " * 300,
]  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("text", LANGUAGES)
def test_identical_text_is_one_in_every_language_and_length(metric, text):
    for numbers in (False, True):
        assert METRICS[metric](text, text, numbers=numbers) == 1.0
        assert METRICS[metric](f"  {text.upper()}\n", [text, "something else"], numbers=numbers) == 1.0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("prediction", "reference"),
    [("", "a cat"), ("  ", "我"), ("...", "!!!"), ("!!!", "a cat"), ("dog", "!!!"), ("犬", "猫")],
)
def test_nothing_in_common_is_zero(metric, prediction, reference):
    assert METRICS[metric](prediction, reference) == 0.0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("reference", [None, "", " ", [], [None], {}, {"box": [1]}, float("nan"), "<answer></answer>"])
def test_a_missing_reference_is_unjudgeable(metric, reference):
    assert METRICS[metric]("a cat", reference) is None


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("42", 42),
        ("3", 3.0),
        ("4", ["four", 4]),
        ("a cat", "<answer> a cat </answer>"),
        ("x", {"answer": ["y", "x"]}),
    ],
)
def test_references_that_are_no_strings(metric, prediction, reference):
    assert METRICS[metric](prediction, reference) == 1.0


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text())
def test_scores_stay_in_range_on_any_text(prediction, reference):
    for metric in METRICS.values():
        for numbers in (False, True):
            score = metric(prediction, reference, numbers=numbers)
            assert score is None or 0.0 <= score <= 1.0


@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join),
    st.lists(reference_texts, min_size=2, max_size=4),
)
def test_the_best_reference_counts(prediction, references):
    for metric in METRICS.values():
        single = [score for reference in references if (score := metric(prediction, reference)) is not None]
        assert metric(prediction, references) == max(single, default=None)


def test_order_counts_for_the_default_and_not_for_rouge_1():
    reference = "a small boy in a red shirt kicks the ball over a wooden fence"
    shuffled = "fence ball red the a kicks over in shirt boy wooden a small a"
    assert rouge(shuffled, reference, "rouge1") == 1.0
    assert overlap(shuffled, reference) < 0.5 < overlap(shuffled, reference, preset="seed")


@pytest.mark.parametrize(
    ("prediction", "reference", "plain", "numbered"),
    [
        ("5", "-5", 1.0, 0.0),
        ("1234", "1,234", 0.0, 1.0),
        ("50 %", "50%", 1.0, 1.0),
        ("17:54", "17:45", None, 0.0),
    ],
)
def test_number_aware_tokens(prediction, reference, plain, numbered):
    assert overlap(prediction, reference, numbers=True) == numbered
    assert plain is None or overlap(prediction, reference) == plain


def test_overlap_weighs_its_three_views():
    prediction, reference = "a big dog ran home", "a large dog ran off"
    parts = {
        "bleu": bleu(prediction, reference),
        "rouge": rouge(prediction, reference),
        "meteor": meteor(prediction, reference),
    }
    assert overlap(prediction, reference) == pytest.approx(sum(parts.values()) / 3)
    for name, part in parts.items():
        assert overlap(prediction, reference, weights={name: 2}) == part
    weights = {"bleu": 1, "meteor": 3}
    assert overlap(prediction, reference, weights=weights) == pytest.approx((parts["bleu"] + 3 * parts["meteor"]) / 4)
    assert overlap(prediction, reference, variant="rouge1", weights={"rouge": 1}) == rouge(
        prediction, reference, "rouge1"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlap("a", "a", preset="sead"), "did you mean 'seed'"),
        (lambda: overlap("a", "a", variant="rouge"), "did you mean 'rouge"),
        (lambda: overlap("a", "a", power=0), "power"),
        (lambda: overlap("a", "a", weights={"blue": 1}), "blue"),
        (lambda: overlap("a", "a", weights={"bleu": 0}), "none below 0"),
        (lambda: overlap("a", "a", weights={"bleu": 2, "rouge": -1}), "none below 0"),
        (lambda: rouge("a", "a", "rouge3"), "did you mean 'rouge"),
        (lambda: bleu("a", "a", compat="rouge_score"), "nltk"),
        (lambda: bleu("a", "a", max_order=0), "max_order"),
        (lambda: meteor("a", "a", synonyms="wordnett"), "did you mean 'wordnet'"),
        (lambda: meteor("a", "a", alpha=2.0), "alpha"),
    ],
)
def test_settings_out_of_range_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- METEOR ---


def test_synonyms_are_looked_up_for_words_and_not_for_stems():
    assert meteor("a big dog ran fast", "a large dog ran quickly") > 0.75
    assert meteor("a big dog ran fast", "a large dog ran quickly", compat="nltk") == pytest.approx(0.5111, abs=1e-4)


def test_the_first_text_of_a_run_has_its_synonyms_too():
    wordnet().clear()
    read_words.__globals__["_read_words"].cache_clear()
    assert meteor("a large dog", "a big dog") == 1.0


def test_one_whole_chunk_is_not_fragmented():
    assert meteor("dog", "dog") == 1.0
    assert meteor("dog", "dog", compat="nltk") == 0.5
    assert meteor("dog", "dog barks") < 0.5  # a chunk, but not the whole of both


def test_without_synonyms_is_a_choice_that_is_logged_once(caplog):
    _say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        scores = [meteor("a large dog", "a big dog", synonyms="none") for _ in range(3)]
    assert scores[0] < meteor("a large dog", "a big dog")
    assert [record.getMessage() for record in caplog.records] == [
        "METEOR runs without synonyms (synonyms: none): paraphrases score lower"
    ]


@given(st.lists(st.sampled_from(WORDS), max_size=20), st.lists(st.sampled_from(WORDS), max_size=20))
def test_an_alignment_pairs_each_word_once_and_leaves_no_equal_words_alone(theirs, ours):
    theirs, ours = ([token for word in words for token in tokens(word)] for words in (theirs, ours))
    partners = align(Words(" ".join(theirs), theirs), Words(" ".join(ours), ours), wordnet())
    taken = [partner for partner in partners if partner != FREE]
    assert len(set(taken)) == len(taken)
    alone = {theirs[i] for i, partner in enumerate(partners) if partner == FREE}
    assert alone.isdisjoint(word for place, word in enumerate(ours) if place not in taken)


# --- caches and threads ---


def test_a_text_remembers_one_partner_at_a_time():
    predicted, references = read_words("a b c d"), [read_words("a b x"), read_words("b c d e")]
    for _ in range(2):
        assert [predicted.shared(reference, 2) for reference in references] == [1, 2]
        assert [predicted.shared(reference, 1) for reference in references] == [2, 3]


def test_threads_agree_with_one_thread():
    pairs = [*noisy_pairs(40, 12), *noisy_pairs(40, 25)] * 5
    wanted = [overlap(*pair) for pair in pairs]
    read_words.__globals__["_read_words"].cache_clear()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda pair: overlap(*pair), pairs)) == wanted
