"""Answers that are worked out and answers that leave the work to the judge: one table of forms."""

import pytest
from sympy import latex
from sympy.parsing.tests import test_latex as sympy_latex

from omnirl_core.rewards.answers.answers import answer, math, number
from omnirl_core.rewards.answers.evaluated import in_evaluated_form

# (answer, reference): answers as the keys of MATH, GSM8K and AIME write them. None may lose its mark.
WORKED_OUT = [
    ("1591", "1591"),
    (r"\frac{3}{4}", "0.75"),
    ("3/4", "0.75"),
    (r"3\sqrt{2}", r"\sqrt{18}"),
    ("10^{6}", "1000000"),
    ("2\\pi", "6.28"),
    (r"\boxed{42}", "42"),
    ("42 cm", "42"),
    (r"42\text{ cm}^2", "42"),
    ("50\\%", "50"),
    ("(3, 4)", "(3,4)"),
    (r"\{1,2\}", "{1,2}"),
    (r"[0,\infty)", "[0, \\infty)"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ("x = 5", "5"),
    ("2+2=4", "4"),
    (r"1+\sqrt{2}", r"\sqrt2+1"),
    (r"\frac{1+\sqrt{5}}{2}", r"\frac{\sqrt5+1}{2}"),
    ("2+3i", "3i+2"),
    (r"\frac{\pi}{6}", r"\pi/6"),
    (r"\dfrac34", "0.75"),
    (r"2\frac{1}{2}", "2.5"),
    (r"3 \times 10^{5}", "300000"),
    (r"1{,}000", "1000"),
    ("1,000", "1000"),
    (r"-\frac{1}{2}", "-0.5"),
    ("1/\\sqrt{2}", r"\frac{\sqrt{2}}{2}"),
    (r"e^2", "7.389"),
    (r"\sqrt[3]{4}", r"4^{1/3}"),
    (r"x=\pm 3", r"\pm 3"),
    ("2²", "2²"),
    (r"45^\circ", "45"),
    (r"\$25", "25"),
    ("5.00", "5"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"3\pi\text{ m}", r"3\pi"),
    (r"\frac{3\pi}{4}", "2.356"),
    ("(2,3)\\cup(4,5)", "(2,3)\\cup(4,5)"),
    ("42 apples", "42"),
    ("12:30", "12:30"),
    (r"\frac{9}{2}\sqrt{3}", r"\frac{9\sqrt{3}}{2}"),
    ("2^{100}", "2^{100}"),
    (r"5\sqrt{3} - 2", "x"),
    (r"-\infty", "-\\infty"),
    ("$42$", "42"),
]
LEFT_TO_DO = [
    ("37*43", "1591"),
    (r"37 \cdot 43", "1591"),
    ("37\\times43", "1591"),
    ("(37)(43)", "1591"),
    ("1591/43", "37"),
    (r"\frac{1591}{43}", "37"),
    ("40+2", "42"),
    ("50-8", "42"),
    ("2^{10}", "1024"),
    ("5!", "120"),
    (r"\binom{5}{2}", "10"),
    (r"\sqrt{16}", "4"),
    (r"\sqrt{2}\sqrt{3}", r"\sqrt{6}"),
    (r"\int_0^1 2x dx", "1"),
    (r"\sum_{i=1}^3 i", "6"),
    (r"\lim_{x\to0} x+1", "1"),
    (r"17 \bmod 5", "2"),
    ("6/8", "0.75"),
    ("1.5/2", "0.75"),
    (r"\frac{\sqrt{4}}{4}", "1/2"),
    ("2*3*7", "42"),
    ("(\\sqrt{9}, 4)", "(3,4)"),
    (r"\int x dx", "x^2/2"),
    (r"\log_{2} 8", "3"),
    ("7^2 - 7", "42"),
    ("(40+2)", "42"),
    ("100(2+3)", "500"),
    (r"\sin(0)", "0"),
    ("0+42", "42"),
    ("42\\cdot1", "42"),
    ("42/1", "42"),
    ("21\\cdot2 cm", "42"),
    ("x=37*43", "1591"),
    ("1591=37*43", "1591"),
    ("\\frac{84}{2}\\pi", "42\\pi"),
    ("2\\pi+3\\pi", "5\\pi"),
    ("37×43", "1591"),
    ("|-42|", "42"),
    ("\\lfloor 42.5\\rfloor", "42"),
    ("4e1+2", "42"),
    (r"\gcd(12,18)", "6"),
    ("10^{1}+32", "42"),
    (r"\sqrt{1764}", "42"),
    ("e^{0}", "1"),
    ("i^2", "-1"),
    ("10^{2}-58", "42"),
    ("\\sqrt[3]{27}", "3"),
    ("42^1", "42"),
    ("(37)*43", "1591"),
    (r"\frac{37}{1}\cdot 43", "1591"),
    ("-(-42)", "42"),
    (r"-\left(-42\right)", "42"),
    ("--42", "42"),
    ("- -42", "42"),
    ("0x2A", "42"),
]
QUESTION = "Expand $(x+1)^2$ and write the result."


@pytest.mark.parametrize(("given", "reference"), WORKED_OUT)
def test_a_worked_out_answer_keeps_its_mark(given, reference):
    assert in_evaluated_form(given, reference)


@pytest.mark.parametrize("given", sorted({reference for _, reference in WORKED_OUT + LEFT_TO_DO}))
def test_the_reference_itself_is_an_answer(given):
    assert in_evaluated_form(given, given)


@pytest.mark.parametrize(("given", "reference"), LEFT_TO_DO)
def test_an_answer_that_leaves_work_is_none(given, reference):
    assert not in_evaluated_form(given, reference)


def test_a_formula_is_not_the_questions_own_unless_that_is_the_answer():
    assert math("(x+1)^2", "x^2+2x+1", problem=QUESTION) == 0.0
    assert math("(x+1)^2", "x^2+2x+1", prompt=[{"role": "user", "content": QUESTION}]) == 0.0
    assert math("x^2 + 2x + 1", "x^2+2x+1", problem=QUESTION) == 1.0
    assert math("1 + 2x + x^2", "x^2+2x+1", problem=QUESTION) == 1.0
    assert math("y = 1 + x", "y = x + 1", problem="Which is the line: y = 1 + x or y = x^2?") == 1.0
    assert answer("$(x+1)^2$", "$x^2+2x+1$", problem=QUESTION) == 0.0


@pytest.mark.parametrize("scorer", [math, number, answer])
def test_scorers_pay_the_number_and_not_the_way_to_it(scorer):
    assert [scorer(given, "37") for given in ("37", "1591/43", r"\frac{1591}{43}", "37/1")] == [
        1.0,
        0.0,
        0.0,
        0.0,
    ]
    assert [scorer(given, "0.75") for given in ("3/4", r"\frac{3}{4}", "6/8", ".75")] == [1.0, 1.0, 0.0, 1.0]
    assert scorer("6/8", "6/8") == scorer("3/4", "6/8") == 1.0
    assert scorer("37*43", "1591") == 0.0
    assert [scorer(given, "42") for given in ("-(-42)", "--42", "- -42", "0x2A", "0b101010")] == [0.0] * 5
    assert scorer("-42", "-42") == 1.0


def sympy_pairs():
    """LaTeX and its meaning, as sympy tests its own reader: samples that were written for another purpose."""
    found = [getattr(sympy_latex, name) for name in dir(sympy_latex) if name.endswith("PAIRS")]
    return [pair for pairs in found if isinstance(pairs, list) for pair in pairs]


def test_sympys_own_samples():
    pairs = sympy_pairs()
    assert len(pairs) > 100
    assert [text for text, _ in pairs if not in_evaluated_form(text, text)] == []
    values = {text: getattr(meaning, "doit", lambda meaning=meaning: meaning)() for text, meaning in pairs}
    numbers = {text: latex(value) for text, value in values.items() if getattr(value, "is_number", False)}
    assert len(numbers) > 20
    assert [value for value in numbers.values() if not in_evaluated_form(value, value)] == []
    same = {text for text, value in numbers.items() if in_evaluated_form(text, value)}
    assert same == {r"\frac12", r"\frac2{3}", r"\frac{7}{3}", r"\infty"}  # the others leave work to do
