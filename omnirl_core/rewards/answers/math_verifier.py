r"""math-verify in a process of its own: an answer can keep sympy busy for ever, but not the trainer.

math-verify bounds its time by SIGALRM, which works in the main thread only and not inside C code. Here a
child process imports sympy (one or two seconds, once per process) and forks a judge, which judges one pair at a
time under CPU, wall and memory limits that the kernel enforces (POSIX). A judge that exceeds them dies, the
answer has failed, and the child forks another, which has sympy already. Safe from any thread and after a fork.
"""

import ctypes
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from importlib.util import find_spec
from typing import IO, Any

from omnirl_core.rewards.answers.numbers import half_width
from omnirl_core.rewards.batch import runaways

MAX_CHARACTERS = 500  # of an expression; the grammar takes seconds on longer ones
MAX_DEPTH = 20  # of nested brackets; each level doubles what the grammar tries
WALL_PER_CPU = 10  # a loaded machine may take this much longer than the CPU limit says
MAX_MEMORY = 4 << 30
MOST_RUNAWAY_S = 10.0
"""CPU seconds that answers of one batch may run over their limit; from then on each gets LATE_S."""
LATE_S = 0.5
OVER = "over"
"""The reply for an answer that exceeded its limits."""

_PLAIN_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|log|ln|exp|pi|theta|alpha|beta|infty)(?![A-Za-z])")
_PLAIN_ROOT = re.compile(r"\\sqrt\s*\(([^()]{1,100})\)")
_RADICAL = re.compile(r"√\s*(\d+|[A-Za-z])")
_PLAIN_POWER = re.compile(r"(?:\^|\*\*)\s*(?:(-?\d+)|\(([^()]{1,100})\))")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}|[\u3040-\u9fff]")
_CUE = re.compile(r"(?:\bis\b|\bare\b|[:是为])")
_TEXT = re.compile(r"\\(?:text|mathrm|operatorname)\s*\{[^{}]*\}")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d++(?:\.\d++)?)[eE]([+-]?\d{1,3})(?![\w.]*\w)")
_EULER = re.compile(r"(?<![A-Za-z\\])e(?![A-Za-z])")
_EITHER = re.compile(r"(?:\\lor|\\vee|(?<![A-Za-z])or)(?![A-Za-z])|[∨或]")


def expression(text: str) -> str | None:
    r"""The mathematics of an answer, in LaTeX delimiters; None for prose, and for what is too long or deep.

    The last `\boxed` counts; without one, text that has delimiters is left to math-verify, which takes its
    last expression; bare text must be an expression, after words like "the answer is".

    >>> expression("so \\boxed{\\frac{1}{2}}"), expression("The answer is 2x + 1."), expression("a red cube")
    ('$\\frac{1}{2}$', '$2x + 1$', None)
    """
    text = (_last_boxed(text) or text).strip()
    if len(text) > MAX_CHARACTERS:
        return None
    text = half_width(text)
    if _depth(text) > MAX_DEPTH:
        return None
    if "$" in text or r"\(" in text or r"\[" in text:
        return text
    if _WORD.search(_PLAIN_FUNCTION.sub(r"\\\1", text)):
        text = _CUE.split(text)[-1]
    text = _PLAIN_FUNCTION.sub(r"\\\1", _RADICAL.sub(r"\\sqrt{\1}", text)).strip().rstrip(".")
    text = text.replace("²", "^{2}").replace("³", "^{3}")
    if not text or _WORD.search(_TEXT.sub("", text)):
        return None
    text = _PLAIN_POWER.sub(lambda power: f"^{{{power[1] or power[2]}}}", _PLAIN_ROOT.sub(r"\\sqrt{\1}", text))
    return f"${text}$"


def with_powers_of_ten(reference: str, answer: str) -> tuple[str, str]:
    r"""Both texts with 4.2e1 written as 4.2 \times 10^{1}, unless one of them has Euler's number.

    >>> with_powers_of_ten("42", "4.2e1"), with_powers_of_ten("2e-3", "-3 + 2e")
    (('42', '4.2 \\times 10^{1}'), ('2e-3', '-3 + 2e'))
    """
    texts = reference, answer
    if any(_EULER.search(_SCIENTIFIC.sub("", text)) for text in texts):
        return texts
    return _SCIENTIFIC.sub(_TIMES_TEN, reference), _SCIENTIFIC.sub(_TIMES_TEN, answer)


_TIMES_TEN = r"\1 \\times 10^{\2}"


def hedges(reference: str, answer: str) -> bool:
    """Whether an answer says "a or b" where the reference does not; math-verify would take b."""
    return bool(_EITHER.search(answer)) and not _EITHER.search(reference)


def _last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds, if that is closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for position in range(start, min(len(text), start + MAX_CHARACTERS)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


class MathJudge:
    """Client of one child process; `same` is safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def same(self, reference: str, answer: str, timeout_s: float = 2.0) -> bool | str | None:
        """Whether the answer is mathematically the reference; None where the reference is no mathematics.

        `OVER` for an answer that takes more than `timeout_s` of CPU time.
        """
        with self._lock:
            child = self._started()
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(
                    json.dumps({"reference": reference, "answer": answer, "timeout_s": timeout_s}) + "\n"
                )
                child.stdin.flush()
                reply = child.stdout.readline()
            except BrokenPipeError:
                reply = ""
            if not reply:  # the child itself is dead
                self._end(child)
                return OVER
            return json.loads(reply)

    def _started(self) -> "subprocess.Popen[str]":
        if self._child is None or self._child.poll() is not None:
            if find_spec("math_verify") is None:
                raise ImportError("the `math` reward needs math-verify: pip install -e '.[math]' in the checkout")
            path = os.pathsep.join(entry for entry in sys.path if entry)
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env=os.environ | {"PYTHONPATH": path},
            )
            assert self._child.stdout is not None
            if not self._child.stdout.readline():
                code = self._child.wait()
                raise RuntimeError(f"the math judge did not start (exit {code}): run `{sys.executable} -m {__name__}`")
        return self._child

    def _end(self, child: "subprocess.Popen[str]") -> None:
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        child.kill()
        child.wait()
        self._child = None


_judges: dict[int, MathJudge] = {}  # by process id: a forked child must not talk in its parent's pipes


def same_mathematics(reference: str, answer: str, timeout_s: float = 2.0) -> bool | None:
    """`MathJudge.same` of this process's judge; an answer that runs over its limit is wrong.

    Runaway answers of one batch have MOST_RUNAWAY_S together; then no answer gets more than LATE_S.
    """
    spent = runaways()
    if spent.seconds >= MOST_RUNAWAY_S:
        timeout_s = min(timeout_s, LATE_S)
    before = _remembered.cache_info().misses
    verdict = _remembered(reference, answer, timeout_s)
    if verdict == OVER and _remembered.cache_info().misses > before:
        spent.seconds += timeout_s
    return False if verdict == OVER else verdict  # type: ignore[return-value]


@lru_cache(maxsize=10_000)  # the answers of a group often repeat
def _remembered(reference: str, answer: str, timeout_s: float) -> bool | str | None:
    return _judges.setdefault(os.getpid(), MathJudge()).same(reference, answer, timeout_s)


# --- the child ---


def _serve() -> None:
    """Have forked judges answer the parent's lines until it closes the pipe."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # what libraries print must not look like a reply
    import resource  # POSIX only, as the timers are

    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    _judge("$\\frac{1}{2}$", "$x^2 + 0.5 = 1$")  # warms the grammar before the first timed pair
    _reply(replies, "ready")
    busy = mmap.mmap(-1, 1)  # shared with the judge: whether the parent waits for its reply
    while True:
        busy[0] = 0
        server = os.getpid()
        judge = os.fork()
        if judge == 0:
            _end_with(server)
            _answer_lines(replies, busy)
            os._exit(0)
        if os.waitpid(judge, 0)[1] == 0:
            return
        if busy[0]:
            _reply(replies, OVER)  # and dead


def _answer_lines(replies: IO[str], busy: mmap.mmap) -> None:
    """Answer one JSON line by another until the parent closes the pipe. It sends none before the reply."""
    for line in sys.stdin:
        busy[0] = 1
        request = json.loads(line)
        _set_timers(request["timeout_s"])
        verdict = _judge(request["reference"], request["answer"])
        _set_timers(0)
        busy[0] = 0
        _reply(replies, verdict)


def _reply(replies: IO[str], value: object) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()


def _end_with(server: int) -> None:
    """End the judge when its server ends, where the kernel can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    if os.getppid() != server:
        os._exit(1)


def _set_timers(timeout_s: float) -> None:
    """Their default action ends the process, in C code too."""
    for timer, number, seconds in (
        (signal.ITIMER_PROF, signal.SIGPROF, timeout_s),
        (signal.ITIMER_REAL, signal.SIGALRM, timeout_s * WALL_PER_CPU),
    ):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.setitimer(timer, seconds)


def _judge(reference: str, answer: str) -> bool | None:
    from math_verify import verify

    reference_forms = _parsed(reference)
    if not reference_forms:
        return None
    answer_forms = _parsed(answer)
    try:
        return bool(answer_forms) and verify(reference_forms, answer_forms, timeout_seconds=None)
    except (RecursionError, MemoryError):
        return False


@lru_cache(maxsize=1000)
def _parsed(text: str) -> list[Any]:
    """The text as math-verify reads it: sympy objects only, its fall-back to bare strings left out."""
    from math_verify import parse

    try:
        forms = parse(text, parsing_timeout=None)
    except (RecursionError, MemoryError):
        return []
    return [form for form in forms if not isinstance(form, str)]


if __name__ == "__main__":
    _serve()
