"""What answers and references say: each row was once read wrongly."""

import pytest

from omnirl_core.rewards.answers.answers import answer, choice, edit_similarity, number, yes_no
from omnirl_core.rewards.code.test_cases import same_value


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        # a word that is a fact of its own is no yes or no
        ("yes", "right", 0.0), ("right", "right", 1.0), ("yes", "correct", 0.0), ("no", "wrong", 0.0),
        ("no", "N", 0.0), ("N", "N", 1.0), ("yes", "Y", 0.0), ("y", "yes", 0.0), ("n", "no", 0.0),
        ("no", "No parking", 0.0), ("No parking", "No parking", 1.0), ("no", "No. 5", 0.0), ("yes", "Yes Bank", 0.0),
        ("yes", "Yes, there is a dog.", 1.0), ("no", "No. There is none.", 1.0), ("correct", "true", 1.0),
        # what is counted counts
        ("2 cats", "2 dogs", 0.0), ("2", "2 dogs", 1.0), ("2 dogs", "2 dogs", 1.0), ("two dogs", "2 dogs", 1.0),
        ("There are 2 brown dogs on the grass.", "2 dogs", 1.0), ("3 blue cubes", "3 red spheres", 0.0),
        ("2 people", "2 persons", 1.0),
    ],
)  # fmt: skip
def test_answer_reads_the_reference_as_what_it_is(prediction, reference, expected):
    assert answer(prediction, reference) == expected


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("thirty", 30), ("I see three dogs", 3), ("There is no cat", 0), ("There are no cats here.", 0), ("none", 0),
        ("twenty-one", 21), ("one hundred and five", 105), ("Forty two birds", 42), ("We count one dog.", 1),
        ("drei", 3), ("Es gibt drei Hunde", 3), ("trois", 3), ("tres perros", 3), ("три", 3), ("셋", 3),
        ("图里有三十只鸟", 30), ("没有", 0), ("the second of two", 2), ("two or three, so three", 3),
        (30, "thirty"), ("31", "thirty-one"),
    ],
)  # fmt: skip
def test_numbers_in_words(prediction, reference):
    assert number(str(prediction), reference) == 1.0


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("the one on the left", 1), ("no one", 1), ("someone", 1), ("often", 10), ("a stone", 1), ("weight", 8),
        ("I see a cat", 0), ("notone", 1), ("thirty", 3), ("three hundred", 3), ("two or three", 2), ("十分好", 10),
    ],
)  # fmt: skip
def test_words_that_hold_no_such_number(prediction, reference):
    assert number(prediction, reference) == 0.0


@pytest.mark.parametrize("year", [1905, 1950, 1999, 2001, 2024, "2050"])
def test_a_tolerance_makes_no_year_right_that_is_another(year):
    assert number("2000", year, relative_tolerance=0.05) == 0.0
    assert number(f"in {year}", year, relative_tolerance=0.05) == 1.0


def test_a_tolerance_still_holds_for_amounts():
    for found, wanted in (
        ("105", 100),
        ("2,050", "2,000"),
        ("2050 km", "2000 km"),
        ("2050.5", 2000.5),
        ("9800", 10000),
    ):
        assert number(found, wanted, relative_tolerance=0.05) == 1.0


YES = ["yes", "Ja", "Oui.", "Sí", "Si, hay dos", "Sim", "Да", "да, есть", "はい", "네", "نعم", "हाँ", "是的"]
NO = ["no", "Nein, ist es nicht", "Non", "No, no hay", "Não", "Нет", "いいえ", "아니요", "لا", "नहीं", "不是"]


def test_yes_and_no_of_other_languages():
    for said, other in ((YES, NO), (NO, YES)):
        for reference in said:
            assert [yes_no(one, reference) for one in said] == [1.0] * len(said), reference
            assert [yes_no(one, reference) for one in other] == [0.0] * len(other), reference


@pytest.mark.parametrize("options", ['["Rome", "Paris"]', '{"A": "Rome", "B": "Paris"}', "A. Rome\nB. Paris"])
def test_options_as_text(options):
    assert choice("Paris", "B", options=options) == 1.0
    assert choice("Rome", "B", options=options) == 0.0
    assert choice("B", "Paris", options=options) == 1.0


@pytest.mark.parametrize("options", ["", "no list", "[1", "3", '"text"'])
def test_options_that_cannot_be_read_are_none(options):
    assert choice("B", "B", options=options) == 1.0


def test_edit_similarity_is_anls_at_one_half():
    assert edit_similarity("ab", "ac") == 0.0
    assert edit_similarity("abc", "abd") == pytest.approx(2 / 3)
    assert edit_similarity("same", "same", floor=1.0) == 1.0


@pytest.mark.parametrize(
    ("value", "expected", "passes"),
    [(3.0, 3, False), (3.0000001, 3, False), (3, 3, True), (3, 3.0, True), (3.0000001, 3.0, True), ([2.0], [2], False)],
)  # fmt: skip
def test_a_whole_number_that_is_expected_is_no_decimal(value, expected, passes):
    assert same_value(value, expected, 1e-6) is passes
