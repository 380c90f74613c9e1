"""Answer rewards: one adversarial table per scorer, mathematics aside (test_math.py)."""

import math as floats
import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from omnirl_core.rewards.answers.answers import (
    ORDER,
    answer,
    choice,
    edit_similarity,
    exact,
    math,
    number,
    yes_no,
)
from omnirl_core.rewards.reward import Reward

SCORERS = (exact, choice, yes_no, number, math, edit_similarity, answer)

# --- exact ---


@pytest.mark.parametrize(
    ("prediction", "solution", "expected"),
    [
        ("Paris", "Paris", 1.0),
        ("  paris. ", "Paris", 1.0),
        ("Paris\n", "<answer> Paris </answer>", 1.0),
        ("the\n red   cube", "the red cube", 1.0),
        ("Ｐａｒｉｓ", "Paris", 1.0),
        ("ﬁsh", "fish", 1.0),
        ("我爱北京。", "我爱北京", 1.0),
        ("STRASSE", "straße", 1.0),
        ("cafe\u0301", "café", 1.0),
        ("42", 42, 1.0),
        ("3", 3.0, 1.0),
        ("True", True, 1.0),
        ("Lyon", ["Paris", "Lyon"], 1.0),
        ("...", "...", 1.0),
        ("!!!", "...", 0.0),
        ("Paris, France", "Paris", 0.0),
        ("Paris Paris", "Paris", 0.0),
        ("Paris Lyon", ["Paris", "Lyon"], 0.0),
        ("-5", "5", 0.0),
        ("", "Paris", 0.0),
        ("   ", "Paris", 0.0),
        ("x" * 50_000, "x", 0.0),
        ("Paris", None, None),
        ("", "", None),
        ("Paris", [], None),
    ],
)
def test_exact(prediction, solution, expected):
    assert exact(prediction, solution) == expected


def test_exact_can_mind_the_case():
    assert exact("paris", "Paris", case_sensitive=True) == 0.0
    assert exact("Paris.", "Paris", case_sensitive=True) == 1.0


# --- choice ---

SAYS_B = [
    "B", "b", " B ", "B.", "b.", "B)", "(B)", "(b)", "[B]", "<B>", '"B"', "**B**", "$B$", "\\boxed{B}", "$\\text{B}$",
    "Ｂ", "（Ｂ）", "Ｂ．", "【B】", "B。", "B、巴黎", "B. Paris", "B: Paris", "B) Paris", "(B) Paris", "b) paris",
    "B, Paris", "B Paris", "Option B", "option (b)", "Answer: B", "The answer is B", "The correct option is (B).",
    "It's B", "I choose B.", "答案是B", "答案：B", "答案为 Ｂ。", "选B", "我选择B", "正确答案是B，因为A不对",
    "The answer is B because A is too small", "B. Paris is larger than that.",
]  # fmt: skip


@pytest.mark.parametrize("prediction", SAYS_B)
@pytest.mark.parametrize("solution", ["B", "(B)", "b", "B. Paris", "<answer>B</answer>"])
def test_choice_reads_a_letter_however_it_is_written(prediction, solution):
    assert choice(prediction, solution) == 1.0
    assert choice(prediction, "C") == 0.0


@pytest.mark.parametrize(
    "prediction",
    [
        "", "  ", "?", "Paris", "a dog", "A dog", "The answer is a dog", "A or B", "A/B", "A, B", "AB", "(A) or (B)",
        "A. x B. y C. z D. w", "A B C D E", "ABCDE", "A或B", "not sure", "BAD", "CAB", "Vitamin K", "F", "e.g. this",
        "BB" * 100, "None of the above", "U.S.A.",
    ],
)  # fmt: skip
def test_choice_gives_nothing_for_no_letter_or_several(prediction):
    assert choice(prediction, "B") == 0.0
    assert choice(prediction, "E") == 0.0


@pytest.mark.parametrize(
    ("prediction", "solution", "expected"),
    [
        ("A, C", "AC", 1.0),
        ("C and A", "A, C", 1.0),
        ("A、C", "AC", 1.0),
        ("ABC", "AC", 0.0),
        ("A", "AC", 0.0),
        ("A", ["A", "C"], 1.0),  # a list holds alternatives
        ("H", "H", 1.0),
        ("A", "Paris", None),
        ("A", "", None),
        ("A", None, None),
        ("A", 3, None),
    ],
)
def test_choice_of_several_letters_and_of_references_that_are_none(prediction, solution, expected):
    assert choice(prediction, solution) == expected


OPTIONS = ["A. Rome", "B. Paris", "C. New Paris", "D. 12 cm", "E. a", "F. none"]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("Paris", 1.0),
        ("paris.", 1.0),
        ("It is Paris, of course", 1.0),
        ("B", 1.0),
        ("B. Paris", 1.0),
        ("New Paris", 0.0),
        ("Rome or Paris", 0.0),
        ("C. Paris", 0.0),  # the letter counts
        ("Parisian", 0.0),
        ("F", 0.0),
    ],
)
def test_choice_reads_the_text_of_an_option(prediction, expected):
    by_letter = dict(zip("ABCDEF", [text[3:] for text in OPTIONS], strict=True))
    for options in (OPTIONS, by_letter):
        for solution in ("B", "Paris", "B. Paris"):
            assert choice(prediction, solution, options=options) == expected
    assert choice("F", "none", options=OPTIONS) == 1.0


# --- yes and no ---


@pytest.mark.parametrize(
    ("prediction", "says"),
    [
        ("yes", True), ("YES!", True), ("Yes.", True), ("true", True), ("Yes, there is no cat.", True),
        ("Yes it is", True), ("The answer is yes", True), ("Answer: yes", True), ("是", True), ("是的。", True),
        ("对", True), ("有", True), ("有一只猫", True), ("答案是是的", True), ("正确", True),
        ("no", False), ("No.", False), ("No, it is not true", False), ("No it isn't", False), ("FALSE", False),
        ("the answer is: no", False), ("不是", False), ("不是的", False), ("没有", False), ("没有猫", False),
        ("否", False), ("不对", False), ("错", False), ("不，没有", False), ("答案：否", False),
        ("", None), ("  ", None), ("maybe", None), ("yes or no", None), ("yes/no", None), ("Yes. No.", None),
        ("yes no", None), ("no, yes", None), ("Yes, but no", None), ("是或不是", None), ("有没有", None),
        ("yesterday", None), ("notable", None), ("I do not know", None), ("是否", None),
    ],
)  # fmt: skip
def test_yes_no(prediction, says):
    assert yes_no(prediction, "yes") == float(says is True)
    assert yes_no(prediction, False) == float(says is False)


def test_an_echo_of_the_choice_chooses_nothing():
    for echo in ("Is there a dog? Answer yes or no.", "yes / no", "是或否", "No or yes?"):
        assert yes_no(echo, "no") == 0.0
        assert yes_no(echo, "yes") == 0.0


@pytest.mark.parametrize("solution", [None, "", "maybe", "a cat", 5, []])
def test_yes_no_abstains_on_other_references(solution):
    assert yes_no("yes", solution) is None


# --- number ---


@pytest.mark.parametrize(
    ("prediction", "solution"),
    [
        ("42", 42), ("42.", "42"), (" 42 ", "42.0"), ("+42", 42), ("４２", 42), ("-5", "−5"), ("x = 5", 5),
        ("The answer is 42.", 42), ("answer:42", 42), ("3 + 4 = 7", 7), ("(7)", 7), ("7 (seven)", 7), ("\\boxed{7}", 7),
        ("1,234", 1234), ("1,234,567.50", "1234567.5"), ("1234", "1,234"), ("$25", "$25.00"), ("-$5", "-5"),
        ("$5$", 5), ("US $3 million", 3_000_000), ("1.2e3", 1200), ("3 × 10^5", 300000), ("3\\times10^{-2}", 0.03),
        ("1/2", 0.5), ("1 1/2", 1.5), ("½", 0.5), ("2½", 2.5), ("\\frac{3}{4}", "3/4"), ("-\\frac{1}{2}", -0.5),
        ("50 %", "50%"), ("50%", "0.5"), ("0.5", "50%"), ("50", "50 percent"), ("50\\%", 50), (".5", "0.5"),
        ("25 cm", "0.25 m"), ("25cm", "25"), ("25", "25 cm"), ("5 km/h", "5 km/h"), ("3 m^2", "3 square meters"),
        ("3 m²", "30000 cm²"), ("2 hours", "120 min"), ("36.6 ℃", "36.6 °C"), ("5厘米", "5 cm"), ("3平方米", "3 m2"),
        ("1.2万", 12000), ("5", "5 dogs"), ("three", 3), ("There are three dogs.", 3), ("三只", 3), ("十二", 12),
        ("有两只猫", 2), ("7", "seven"), ("0.30000000000000004", 0.3), ("-0", 0), (str(2**70), 2**70),
    ],
)  # fmt: skip
def test_equal_numbers(prediction, solution):
    assert number(prediction, solution) == 1.0


@pytest.mark.parametrize(
    ("prediction", "solution"),
    [
        ("5", "-5"), ("-5", 5), ("43", 42), ("3.15", 3.14), ("314", 3.14), ("136", "1/36"), ("1,2", 12),
        ("1,243", "1,234"), ("2x + 1", 1), ("2x", 2), ("x-3", -3), ("5-3", 5), ("2+3", 2), ("2 + 3", 3), ("x + 3", 3),
        ("10^5", 10), ("2^10", 1024), ("17:45", 17), ("2024-05-01", 2024), ("10-20", 10), ("1/2/3", 1), ("1.2.3", 1.2),
        ("v2", 2), ("3D", 3), ("1st", 1), ("1/0", 1), ("5 cm", "5 m"), ("5 cm", "5 kg"), ("5 m", "5 m^2"),
        ("25 m", "0.25 m"), ("5%", "5 cm"), ("0.5%", "50%"), ("", 0), ("   ", 0), ("zero-ish?", 5), ("nan", 0),
        ("inf", 0), ("41, 42, 43", 42), ("9" * 50_000, 9), ("1e999999999", 1), (str(2**70 + 1), 2**70),
        ("十十", 10), ("one", 2), ("2 cats", "2 dogs"), ("There are 2 cats.", "2 dogs"), ("2只猫", "2只狗"),
    ],
)  # fmt: skip
def test_unequal_numbers(prediction, solution):
    assert number(prediction, solution) == 0.0


@pytest.mark.parametrize(
    "solution",
    [None, "", "a dog", "17:45", "2 of 3", "3D", "[1, 2]", float("nan"), float("inf"), {}, [], "2x + 1"],
)
def test_number_abstains_where_the_reference_is_none(solution):
    assert number("42", solution) is None


def test_number_picks_one_and_alternatives_help_the_reference_side_only():
    assert [number("7 or 8", 7, pick=pick) for pick in ("last", "first", "only")] == [0.0, 1.0, 0.0]
    assert [number("8, that is 8.0", 8, pick=pick) for pick in ("last", "first", "only")] == [1.0, 1.0, 1.0]
    assert number(" ".join(map(str, range(1000))), 500) == 0.0
    assert number("8", [7, 8]) == 1.0
    with pytest.raises(ValueError, match="pick: 'best' is not a choice; known: last, first, only"):
        number("8", 8, pick="best")


def test_number_tolerances():
    assert number("3.1", 3.14, relative_tolerance=0.02) == 1.0
    assert number("3.1", 3.14, relative_tolerance=0.01) == 0.0
    assert number("101", 100, absolute_tolerance=1) == 1.0
    assert number("101.5", 100, absolute_tolerance=1) == 0.0
    assert number("105", 100, relative_tolerance=0.05) == 1.0
    assert number("24 cm", "0.25 m", absolute_tolerance=0.01) == 1.0  # in the reference's unit


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-9999, max_value=9999, places=4))
@settings(max_examples=200, deadline=None)
def test_number_reads_what_python_writes(value):
    spellings = [str(value), f"{value:,}", f"{value:+}", f"{value:e}", f"so it is {value}.", f"{value} kg"]
    for spelling in spellings:
        assert number(spelling, str(value)) == 1.0, spelling
        assert number(spelling, str(value + Decimal("0.0001"))) == 0.0, spelling


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30))
@settings(max_examples=200, deadline=None)
def test_number_agrees_with_isclose(reference):
    for factor in (1.0, 1 + 1e-6, 0.98, 1.5, -1.0):
        written = repr(reference * factor)
        expected = floats.isclose(float(written), reference, rel_tol=0.05) if reference else float(written) == 0
        if abs(abs(factor) - 0.95) > 0.001:
            assert number(written, reference, relative_tolerance=0.05) == float(expected)


# --- edit similarity ---


@pytest.mark.parametrize(
    ("prediction", "solution", "expected"),
    [
        ("kitten", "sitting", 1 - 3 / 7),
        ("Main Street", "main  street", 1.0),
        ("ＡＢＣ", "abc", 1.0),
        ("北京大学", "北京大", 0.75),
        ("Lyon", ["Paris", "Lyons"], 0.8),
        ("12", 123, 1 - 1 / 3),
        ("a cat", "the dog", 0.0),  # below the floor
        ("", "Paris", 0.0),
        ("   ", "Paris", 0.0),
        ("Paris", None, None),
        ("Paris", "", None),
    ],
)
def test_edit_similarity(prediction, solution, expected):
    assert edit_similarity(prediction, solution) == (expected if expected is None else pytest.approx(expected))


def test_edit_similarity_without_floor_is_rapidfuzz():
    rng = random.Random(0)
    words = ["red", "cube", "left", "of", "sphere", "blue", "two"]
    for _ in range(100):
        a, b = (" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(2))
        expected = Levenshtein.normalized_similarity(a, b)
        assert edit_similarity(a, b, floor=0) == expected
        assert edit_similarity(a, b) == (expected if expected > 0.5 else 0.0)


@pytest.mark.timeout(30)
def test_long_texts_are_compared_by_tokens():
    text = " ".join(random.Random(0).choices(["red", "cube", "sphere", "blue"], k=20_000))
    assert edit_similarity(text, text) == 1.0
    assert edit_similarity(text.replace("red", "pink"), text) == pytest.approx(0.75, abs=0.01)


# --- ordered fallback ---


@pytest.mark.parametrize(
    ("prediction", "solution", "expected"),
    [
        ("(b)", "B", 1.0),
        ("A or B", "B", 0.0),
        ("Yes, it is", "yes", 1.0),
        ("42.0", 42, 1.0),
        ("1,234 km", "1234", 1.0),
        ("1/\\sqrt{2}", "$\\frac{\\sqrt{2}}{2}$", 1.0),
        ("1 + x^2", "x^2 + 1", 1.0),
        ("A CAT", "a cat", 1.0),
        ("a dog", "a cat", 0.0),
        ("17:45", "17:45", 1.0),
        ("17:54", "17:45", 0.0),
        ("no", ["no", "none"], 1.0),
        ("none", ["no", "none"], 1.0),
        ("", "a cat", 0.0),
        ("a cat", None, None),
        ("a cat", {}, None),
    ],
)
def test_answer_asks_the_first_scorer_that_can_read_the_reference(prediction, solution, expected):
    assert answer(prediction, solution) == expected


def test_the_order_of_answer_is_a_setting():
    assert ORDER == ("choice", "yes_no", "number", "math", "exact")
    assert answer("a brown cat", "a brawn cat", order=["exact"]) == 0.0
    assert answer("a brown cat", "a brawn cat", order=["number", "edit_similarity"]) == pytest.approx(10 / 11)
    assert answer("a brown cat", "a cat", order=["number"]) is None
    assert answer("Paris", "B", options=["Rome", "Paris"]) == 1.0
    with pytest.raises(ValueError, match="answer: order has 'bleu'; known: choice, yes_no, number"):
        answer("a", "b", order=["bleu"])


# --- all of them ---


@pytest.mark.parametrize("scorer", SCORERS)
def test_as_a_reward_each_is_given_the_answer(scorer):
    reference = "yes" if scorer is yes_no else "B" if scorer is choice else "42"
    completions = [
        f"<think>is it <answer>7</answer>?</think><answer>{reference}</answer>",
        f"<think>{reference}</think>{reference}",
        [{"role": "assistant", "content": f"<answer>{reference}</answer>"}],
        None,
    ]
    reward = Reward("r", scorer)
    assert reward(completions=completions, solution=[reference] * 4) == [1.0, 0.0, 1.0, 0.0]
    assert reward(completions=completions, solution=[None] * 4) == [None] * 4


HOSTILE = [
    "[", "(", "{", "1", "1 ", "1,", "1/", "1.", "-", "1 + ", "$", "$1$ ", "\\", "\\frac{", "\\frac{1}{2}", "\\boxed{",
    "\\boxed{1}", "A ", "A, ", "(A) ", "A", "yes ", "yes, ", "no yes ", "是", "选", "一", "one ", "word ", "<answer>",
    " ",
    "\n", "e\u0301", "\u0315\u0300", "：", "½", "%", "1%", "5 cm ", "m/m/", "x^", "x=", "or ", "😀", "\x00",
]  # fmt: skip


@pytest.mark.timeout(60)  # a watchdog: each takes below 0.1 s
@pytest.mark.parametrize("scorer", SCORERS)
def test_hostile_answers_are_judged_quickly(scorer):
    references = ["B", "yes", "42", "$\\frac{1}{2}$", "a red cube on the left of the blue sphere"]
    for piece in HOSTILE:
        text = piece * (50_000 // len(piece))
        for reference in references:
            assert scorer(text, reference) in (0.0, None, 1.0), piece


@given(
    prediction=st.text(max_size=80),
    solution=st.one_of(st.none(), st.text(max_size=40), st.integers(), st.floats()),
)
@settings(max_examples=500, deadline=None)
def test_any_text_is_scored_in_range(prediction, solution):
    for scorer in (exact, choice, yes_no, number, edit_similarity):
        score = scorer(prediction, solution)
        assert score is None or 0.0 <= score <= 1.0


def test_no_hack_is_worth_anything_without_the_right_answer():
    letters, numbers = "A B C D E", " ".join(map(str, range(100)))
    hacks = ["", "<answer>" * 50, ", " * 200, letters, numbers, f"{letters} {numbers} yes no", "yes or no"]
    for hack in hacks:
        for reference in ("B", "yes", "no", "42", "$\\sqrt{2}$", "a red cube left of the sphere"):
            assert answer(hack, reference) == 0.0, (hack, reference)
            assert edit_similarity(hack, reference) == 0.0, (hack, reference)
