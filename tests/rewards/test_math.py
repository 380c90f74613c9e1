"""Mathematics as an answer reward: equal in value, in its own process, and never hanging."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnirl_core.rewards.answers import math_verifier
from omnirl_core.rewards.answers.answers import math
from omnirl_core.rewards.reward import Reward


@pytest.mark.parametrize(
    ("prediction", "solution", "expected"),
    [
        ("$\\frac{1}{2}$", "0.5", 1.0),
        ("1/\\sqrt{2}", "$\\frac{\\sqrt{2}}{2}$", 1.0),
        ("sqrt(2)/2", "\\frac{\\sqrt2}{2}", 1.0),
        ("2*x + 1", "1 + 2x", 1.0),
        ("(x+1)**2", "x^2 + 2x + 1", 1.0),
        ("x^10", "x^{10}", 1.0),
        ("10x", "x^10", 0.0),
        ("2\\sqrt{5}", "2\\sqrt{3}", 0.0),
        ("x = 5", "5", 1.0),
        ("\\boxed{41}, no: \\boxed{42}", "42", 1.0),
        ("\\boxed{42}, no: \\boxed{41}", "42", 0.0),
        ("The answer is \\frac{3}{4}.", "0.75", 1.0),
        ("π", "\\pi", 1.0),
        ("x²", "x^2", 1.0),
        ("2²", "4", 0.0),
        ("5 cm", "5 m", 0.0),
        # scientific notation, and Euler's number
        ("4.2e1", "42", 1.0),
        ("4.2e1", "43", 0.0),
        ("x = 4.2E+1", "42", 1.0),
        ("0.001", "1e-3", 1.0),
        ("1.0e-3", "1e-3", 1.0),
        ("-3 + 2e", "2e-3", 1.0),
        ("2e", "5.4366", 0.0),
        ("(2, 1)", "(1, 2)", 0.0),
        ("\\{2, 1\\}", "\\{1, 2\\}", 1.0),
        # several answers are not one
        ("$41$ $42$ $43$", "42", 0.0),
        ("41, 42", "42", 0.0),
        ("\\boxed{41} or \\boxed{42}, \\boxed{43}", "42", 0.0),
        ("x = 41 \\lor x = 42", "42", 0.0),
        ("41 or 42", "42", 0.0),
        ("41 或 42", "42", 0.0),
        ("5 or 6", "x = 5 \\text{ or } x = 6", 1.0),
        # nothing to read
        ("", "42", 0.0),
        ("   ", "42", 0.0),
        ("a red cube", "42", 0.0),
        ("$", "42", 0.0),
        ("\\frac{", "42", 0.0),
        ("4" * 50_000, "42", 0.0),
        ("(" * 300 + "42" + ")" * 300, "42", 0.0),
        ("42", "a red cube", None),
        ("42", "", None),
        ("42", None, None),
    ],
)
def test_math(prediction, solution, expected):
    assert math(prediction, solution) == expected


@pytest.mark.timeout(120)
def test_math_ends_an_answer_that_would_keep_sympy_busy_and_goes_on():
    for endless in ("9^{9^{9^{9}}}", "1000000!", "10^{10^{10}}", "\\int_0^1 e^{x^2} \\sin(x^3) dx"):
        assert math(endless, "x^2 + 1", timeout_s=0.5) == 0.0
    assert math("1 + x^2", "x^2 + 1") == 1.0


def test_runaway_answers_of_a_batch_share_one_limit(monkeypatch):
    asked = []

    class Judge(math_verifier.MathJudge):
        def same(self, reference, answer, timeout_s=2.0):
            asked.append(timeout_s)
            return math_verifier.OVER if "y" in answer else answer == reference

    monkeypatch.setattr(math_verifier, "_judges", {os.getpid(): Judge()})
    math_verifier._remembered.cache_clear()
    endless = [f"<answer>{n}y</answer>" for n in range(64)]
    answers = [*endless[:3], "<answer>x^2</answer>", *endless[:3], *endless[3:], "<answer>x^2</answer>"]
    scores = Reward("math", math)(completions=answers, solution=["x^2"] * len(answers))
    math_verifier._remembered.cache_clear()
    assert [place for place, score in enumerate(scores) if score] == [3, len(answers) - 1]
    assert sum(asked) <= math_verifier.MOST_RUNAWAY_S + 64 * math_verifier.LATE_S < 64 * 2.0
    assert asked.count(2.0) == 6  # five runaways and x^2, which is asked once; those that repeat cost nothing


@pytest.mark.timeout(120)
def test_math_works_off_the_main_thread_and_after_a_fork():
    pairs = [(f"{i}x + {i}", f"{i}(x + 1)") for i in range(2, 18)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda pair: math(*pair), pairs)) == [1.0] * len(pairs)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(math, [(f"y + {i}", f"{i} + y") for i in range(8)]) == [1.0] * 8
    assert math("z + 1", "1 + z") == 1.0


def test_a_judge_that_was_killed_is_started_again():
    judge = math_verifier.MathJudge()
    assert judge.same("$2x$", "$x + x$") is True
    first = judge._child
    assert first is not None
    os.kill(first.pid, 9)
    first.wait()
    assert judge.same("$2x$", "$x + x$") is True
    assert judge._child is not first


def test_without_math_verify_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(math_verifier, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs math-verify: pip install -e '\.\[math\]'"):
        math_verifier.MathJudge().same("$x$", "$y$")
