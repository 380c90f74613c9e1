"""The code reward: an answer's program, judged by the tests that it passes.

docs/code_reward.md: what isolates the program, what the judge promises, and how to use a remote sandbox.
"""

import functools
import inspect
import logging
import math
import pkgutil
from collections.abc import Generator
from contextlib import closing
from typing import Any, Literal, get_args

from omnirl_core.rewards.reward import on_answer
from omnirl_core.types import check_choice

from .jail import shim
from .sandbox import Limits, LocalSandbox, Sandbox, cpp_compiler
from .test_cases import Exercise, read_exercise

LABELS = {
    "python": "python", "python3": "python", "py": "python",
    "cpp": "cpp", "c++": "cpp", "cc": "cpp", "cxx": "cpp",
}  # fmt: skip
Language = Literal["auto", "python", "cpp"]
MOST_ANSWERS = 32  # threads that wait for the runs of one answer each
LONGEST_SOURCE = 32 << 10  # characters; no exercise needs more, and a flood of text is not worth a process

logger = logging.getLogger(__name__)


@on_answer
def code(
    prediction: str,
    solution: object,
    *,
    language: Language = "auto",
    all_or_nothing: bool = False,
    tolerance: float = 1e-6,
    timeout_s: float = 5.0,
    total_timeout_s: float = 60.0,
    memory_bytes: int = 512 << 20,
    allow_local_execution: bool = False,
    least_isolation: str = "filters",
    workers: int = 0,
    provider: Sandbox | str | None = None,
) -> float | None:
    """Share of the tests that the answer's program passes, in [0, 1]; None where the tests cannot be read.

    `solution` is `{"tests": [...]}` or its JSON, each test `{"stdin": ..., "stdout": ...}` or `{"call": "f",
    "args": [...], "expected": ...}`. The program is the answer's last fenced block, or all of it. Each test
    runs in a fresh process; `timeout_s` is CPU time. `provider` is a `Sandbox`, or "package.module:name" of
    one; without it the programs run here, and only with `allow_local_execution`.

    >>> from omnirl_core.rewards.code import Outcome
    >>> class Remote:  # your service; without one, allow_local_execution=True
    ...     def run(self, source, language, stdins, limits):
    ...         return [Outcome("ok", stdout="3") for _ in stdins]
    >>> solution = {"tests": [{"stdin": "1 2", "stdout": "3"}, {"stdin": "5 5", "stdout": "10"}]}
    >>> code("print(sum(map(int, input().split())))", solution, provider=Remote())
    0.5
    """
    check_choice("language", language, get_args(Language))
    if provider is None:
        sandbox = local_sandbox(language, allow_local_execution, least_isolation, workers)
    else:
        sandbox = imported_provider(provider) if isinstance(provider, str) else provider
    exercise = read_exercise(solution)
    if exercise is None:
        return None
    if language == "cpp" and any(test.is_call for test in exercise.tests):
        return None  # no way to call a C++ function: the tests do not fit the setting
    program = program_text(prediction, language)
    if program is None:
        return 0.0
    seconds = max(1, math.ceil(timeout_s))
    wall_s = 2 * seconds + 2  # on a busy machine a right answer waits for its CPU seconds
    limits = Limits(cpu_s=seconds, wall_s=wall_s, total_s=total_timeout_s, memory_bytes=memory_bytes)
    with closing(verdicts(sandbox, *program, exercise, limits, tolerance)) as judged:
        if all_or_nothing:
            return float(all(judged))  # the first failure spares the rest
        return sum(judged) / len(exercise.tests)


def answers_at_a_time(*, provider: Sandbox | str | None = None, workers: int = 0, **others: object) -> int:
    """How many answers of a batch are judged at once.

    Locally that is all of a usual batch: what they run is limited by `workers` over all answers. A provider
    is asked for one answer at a time, or for `workers` at once where that is set.
    """
    return MOST_ANSWERS if provider is None else max(1, workers)


code.samples_at_a_time = answers_at_a_time  # type: ignore[attr-defined]


def verdicts(
    sandbox: Sandbox, source: str, language: str, exercise: Exercise, limits: Limits, tolerance: float
) -> Generator[bool, None, None]:
    """Whether the program passes each test, inputs before calls, as far as one asks.

    A run passes that ended by itself, with status 0, and wrote what is expected.
    """
    for is_call in (False, True):
        tests = [test for test in exercise.tests if test.is_call is is_call]
        if not tests:
            continue
        if is_call and language != "python":
            yield from [False] * len(tests)
            continue
        # of a call: one program that reads it from stdin and writes the value of the answer's function
        called = f"{inspect.getsource(shim)}\n\ncall({source!r}, {exercise.prelude!r})\n"
        outcomes = iter(sandbox.run(called if is_call else source, language, [test.stdin for test in tests], limits))
        for test, outcome in zip(tests, outcomes, strict=True):
            yield outcome.status == "ok" and test.passes(outcome.stdout, tolerance)


def program_text(prediction: str, language: str) -> tuple[str, str] | None:
    """The program in an answer and its language; None where there is none that could be judged.

    Of the fenced blocks the last one labelled as code counts, else the last one, else the whole answer.

    >>> program_text("First:\\n```python\\nprint(1)\\n```\\nIt prints:\\n```\\n1\\n```", "auto")
    ('print(1)\\n', 'python')
    """
    blocks = fenced_blocks(prediction)
    labelled = [block for block in blocks if block[0] in LABELS]
    label, source = (labelled or blocks or [("", prediction)])[-1]
    found = LABELS.get(label) or ("cpp" if "#include" in source else "python")
    if not source.strip() or "\0" in source or len(source) > LONGEST_SOURCE:
        return None
    return source, found if language == "auto" else language


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(label, body) of every fenced block, the last one even without its closing fence; one pass."""
    blocks: list[tuple[str, str]] = []
    label = ""
    body: list[str] | None = None
    for line in text.split("\n"):
        is_fence = line.lstrip().startswith("```")
        if body is None:
            if is_fence:
                label, body = line.strip().strip("`").strip().partition(" ")[0].lower(), []
        elif is_fence or line.rstrip().endswith("```"):  # a fence at the end of the last line closes, too
            body += [] if is_fence else [line.rstrip().removesuffix("```")]
            blocks.append((label, "".join(f"{one}\n" for one in body)))
            body = None
        else:
            body.append(line)
    if body:
        blocks.append((label, "".join(f"{one}\n" for one in body)))
    return blocks


@functools.cache
def local_sandbox(language: str, allowed: bool, least_isolation: str, workers: int) -> Sandbox:
    """The sandbox on this machine; refused at the first call, before any answer is looked at."""
    sandbox = LocalSandbox(allowed, least_isolation, workers=workers)
    sandbox.isolation()
    if language == "cpp" and cpp_compiler() is None:
        raise FileNotFoundError("code: language is 'cpp' and there is no g++ on the PATH; install it")
    return sandbox


@functools.cache
def imported_provider(provider: str) -> Sandbox:
    """The sandbox behind "package.module:name", made once per process; a class is called to make one.

    ValueError where there is none, TypeError where it has no `run`.
    """
    try:
        found: Any = pkgutil.resolve_name(provider)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"code: provider {provider!r} is not found ({error}); write 'package.module:name' of a class or "
            f"object that Python can import where the run starts"
        ) from error
    made = found() if isinstance(found, type) else found
    if not callable(getattr(made, "run", None)):
        raise TypeError(f"code: provider {provider!r} has no method run(source, language, stdins, limits)")
    return made
