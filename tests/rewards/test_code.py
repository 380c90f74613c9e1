"""The code reward: what it reads, what it counts, what it refuses."""

import json
from dataclasses import dataclass, field

import pytest

from omnirl_core.rewards.code.code import code, fenced_blocks, program_text
from omnirl_core.rewards.code.isolation import isolation_level
from omnirl_core.rewards.code.sandbox import Outcome, SandboxError
from omnirl_core.rewards.code.test_cases import read_exercise, same_text, same_value
from omnirl_core.rewards.reward import Reward

pytestmark = pytest.mark.timeout(120)  # the watchdog
SUM = {"tests": [{"stdin": f"{a} {b}\n", "stdout": f"{a + b}\n"} for a, b in ((1, 2), (5, 5), (-3, 3), (7, 0))]}
DOUBLE = {"tests": [{"call": "double", "args": [n], "expected": 2 * n} for n in (0, 1, 2)]}
RIGHT_SUM = "print(sum(map(int, input().split())))"


def is_runnable() -> bool:
    """Whether this machine gives an isolation that the reward accepts by itself."""
    try:
        return isolation_level().level != "limits"
    except SandboxError:
        return False


def assert_score(answer: str, solution: object, score: float, **settings) -> None:
    """The score here; where this machine cannot isolate programs, the refusal, which is all that it promises."""
    if is_runnable():
        assert code(answer, solution, allow_local_execution=True, **settings) == score
    else:
        with pytest.raises(SandboxError):
            code(answer, solution, allow_local_execution=True, **settings)


@dataclass
class Elsewhere:
    """A sandbox that is not this machine: it runs nothing and says what it is told to."""

    outcomes: list[Outcome]
    asked: list[tuple] = field(default_factory=list)

    def run(self, source, language, stdins, limits):
        self.asked.append((source, language, list(stdins), limits))
        yield from self.outcomes


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (RIGHT_SUM, 1.0),
        ("a, b = map(int, input().split())\nprint(a * b + 1)", 0.25),  # right for 1 2
        (f"Thus:\n```python\n{RIGHT_SUM}\n```\nwhich prints\n```\n3\n```", 1.0),
        (f"```\nprint(0)\n```\nNo, rather\n```\n{RIGHT_SUM}\n```", 1.0),
        (f"```py\n{RIGHT_SUM}", 1.0),  # cut off by the token limit, yet whole
        (f"```python\r\n{RIGHT_SUM}\r\n```", 1.0),
        (f"# 中文注释 ü\n{RIGHT_SUM}", 1.0),
        (f"import numpy\n{RIGHT_SUM}", 0.0),  # standard library only
        (f"{RIGHT_SUM}\nraise SystemExit(1)", 0.0),  # right words, then a crash
        ("The sum is 3.", 0.0),
        ("print('3')" * 20_000, 0.0),  # too long to be a program
        ("", 0.0),
        ("\0", 0.0),
        ("\ud800", 0.0),
        ("```python\n```", 0.0),
        ("`" * 5000, 0.0),
    ],
)
def test_the_share_of_passed_tests(answer, score):
    assert_score(answer, SUM, score)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("def double(x): return 2 * x", 1.0),
        ("class Solution:\n    def double(self, x: int) -> Optional[int]:\n        return 2 * x", 1.0),
        ("def double(x):\n    print('thinking')\n    return x + x", 1.0),
        ("def double(x): return x * x", 2 / 3),
        ("double = lambda x: 2.0 * x", 0.0),  # whole numbers are expected
        ("def double(x): return [2 * x]", 0.0),
        ("def double(x): return str(2 * x)", 0.0),
        ("def double(x): print(2 * x)", 0.0),
        ("def triple(x): return 3 * x", 0.0),
        ("def double(x: return 2 * x", 0.0),
        ("def double(x): return 2 * x\nif __name__ == '__main__': raise SystemExit(1)", 1.0),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n  x: 'int'\ndef double(x): return P(2 * x).x",
            1.0,
        ),
        ("import threading, sys\nsys.setrecursionlimit(10 ** 6)\ndef double(x): return 2 * x", 1.0),
    ],
)
def test_function_calls(answer, score):
    assert_score(answer, DOUBLE, score)


def test_values_come_back_as_json():
    tests = [
        {"call": "f", "args": [], "kwargs": {"value": 1}, "expected": [1, [2.0, None], {"a": True}]},
        {"call": "f", "args": [2], "expected": [2, [2.0000000001, None], {"a": True}]},
        {"call": "f", "args": [3], "expected": [3, [2, None], {"a": 1}]},  # true is not 1
    ]
    assert_score("def f(value): return value, (2, None), {'a': True}", {"tests": tests}, 2 / 3)


def test_any_order_where_the_test_allows_it():
    row = {"call": "f", "args": [], "expected": [[1, 2], [3]]}
    tests = [row, row | {"unordered": True}]
    assert_score("def f(): return [[3], [1, 2]]", {"tests": tests}, 0.5)


def test_all_or_nothing():
    assert_score("print(3)", SUM, 0.0, all_or_nothing=True)
    assert_score(RIGHT_SUM, SUM, 1.0, all_or_nothing=True)


@pytest.mark.parametrize(
    "solution",
    [
        *(None, "", "42", 42, [], {}, "{", "[" * 100_000, {"tests": []}, {"tests": "x"}, {"tests": [1]}),
        *({"tests": [{}]}, {"tests": [{"stdin": "1"}]}, {"tests": [{"stdin": 1, "stdout": "1"}]}),
        *({"tests": [{"call": "f", "args": [1]}]}, {"tests": [{"call": "f", "args": 1, "expected": 1}]}),
        *(
            {"tests": [{"call": "f", "expected": {1}}]},
            {"tests": [{"call": "f", "expected": 1}], "prelude": 1},
        ),
        {"tests": [{"stdin": "", "stdout": "x"}, None]},
    ],
)
def test_tests_that_cannot_be_read_are_unjudgeable(solution):
    assert code(RIGHT_SUM, solution, provider=Elsewhere([])) is None


def test_a_solution_may_be_json_or_a_row_of_an_arrow_table():
    row = {"stdin": None, "stdout": None, "call": "f", "args": [1], "kwargs": None, "expected": None}
    other = {"stdin": "1", "stdout": "1", "call": None, "args": None, "kwargs": None, "expected": None}
    exercise = read_exercise(json.dumps({"tests": [row, other], "prelude": None}))
    assert exercise is not None
    assert [(test.is_call, test.expected) for test in exercise.tests] == [(True, None), (False, "1")]
    assert exercise == read_exercise({"tests": [row, other]})


def test_nothing_runs_here_without_leave():
    with pytest.raises(PermissionError, match="allow_local_execution: true"):
        code(RIGHT_SUM, SUM)


def test_a_provider_takes_the_place_of_this_machine():
    sandbox = Elsewhere([Outcome("ok", "3"), Outcome("ok", "10\n"), Outcome("timeout", "0"), Outcome("error", "7")])
    assert code(RIGHT_SUM, SUM, provider=sandbox, timeout_s=0.5, memory_bytes=1 << 28) == 0.5
    source, language, stdins, limits = sandbox.asked[0]
    assert (source, language) == (RIGHT_SUM, "python")
    assert stdins == [test["stdin"] for test in SUM["tests"]]
    assert (limits.cpu_s, limits.memory_bytes) == (1, 1 << 28)


def test_expected_values_never_leave_the_judge():
    sandbox = Elsewhere([Outcome("ok", "0")])
    tests = [{"call": "f", "args": [1], "expected": "a-secret-value"}]
    assert code("def f(x): return x", {"tests": tests}, provider=sandbox) == 0.0
    assert "a-secret-value" not in repr(sandbox.asked)


def test_a_provider_by_name_and_a_wrong_one():
    assert code("", SUM, provider="omnirl_core.rewards.code.sandbox:LocalSandbox") == 0.0
    with pytest.raises(TypeError, match="no method run"):
        code("", SUM, provider="json:dumps")


def test_an_unknown_language_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'python'"):
        code("", SUM, language="pyhton")


def test_language_is_found_by_the_label_or_the_text():
    assert program_text("```c++\nint main() {}\n```", "auto")[1] == "cpp"
    assert program_text("#include <cstdio>\nint main() {}", "auto")[1] == "cpp"
    assert program_text("```Python 3\nprint()\n```", "auto") == ("print()\n", "python")
    assert program_text("```\nprint()\n```", "auto")[1] == "python"
    assert program_text("```python\n1\n```\n```cpp\n2\n```", "auto")[0] == "2\n"


def test_fenced_blocks_in_linear_time():
    assert fenced_blocks("```a\n1```\n```b\n2") == [("a", "1\n"), ("b", "2\n")]
    assert len(fenced_blocks("```\nx\n```\n" * 20_000)) == 20_000


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("3\n", "3", True),
        (" 3", "3", True),  # words are compared where lines are not equal
        ("1 2\r\n3  \n\n", "1 2\n3\n", True),
        ("1\n2", "1 2", False),
        ("0.30000000000000004", "0.3", True),
        ("0.31", "0.3", False),
        ("3.0", "3", False),  # whole numbers are written as such
        ("3", "3.0", True),
        ("nan", "nan", True),
        ("inf", "1.0", False),
        ("9" * 100, "1.0", False),
        ("1e400", "1e5", False),
        ("", "x", False),
        ("", "", True),
    ],
)
def test_texts(output, expected, same):
    assert same_text(output, expected, 1e-6) is same


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (2, 2.0, True),
        (True, 1, False),
        (True, 1.0, False),
        (False, 0, False),
        (None, None, True),
        (None, [], False),
        ("2", 2, False),
        (10**400, 1.5, False),
        (10**400, 10**400, True),
        (float("nan"), float("nan"), True),
        (float("inf"), 1.0, False),
        ([1, [2]], [1, [2]], True),
        ([1, 2], [1, 2, 3], False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": [1.0000000001]}, {"a": [1.0]}, True),
        ({}, [], False),
    ],
)
def test_values(value, expected, same):
    assert same_value(value, expected, 1e-6) is same


def test_values_nested_deeper_than_the_stack():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert same_value(deep, deep, 0.0)


def test_a_column_of_the_data_cannot_allow_what_only_the_yaml_may():
    reward = Reward("code", code, settings={"allow_local_execution": False})
    bare = Reward("code", code)
    for each in (reward, bare):
        with pytest.raises(PermissionError, match="allow_local_execution"):
            each(
                prompts=["p"],
                completions=["<think>t</think><answer>print(1)</answer>"],
                solution=[{"tests": [{"stdin": "", "stdout": "1"}]}],
                allow_local_execution=[True],
            )
