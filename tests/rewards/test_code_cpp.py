"""C++ answers: compiled and run in the same jail, where there is a g++; told clearly where there is none."""

import pytest

from omnirl_core.rewards.code.code import code
from omnirl_core.rewards.code.isolation import isolation_level
from omnirl_core.rewards.code.sandbox import Limits, LocalSandbox, SandboxError, cpp_compiler

pytestmark = pytest.mark.timeout(180)  # the watchdog
TESTS = {"tests": [{"stdin": "1 2", "stdout": "3"}, {"stdin": "20 22", "stdout": "42"}]}
LIMITS = Limits(cpu_s=1, wall_s=4.0)
MAIN = """
#include <cstdio>
#include <cstdlib>
#include <signal.h>
#include <unistd.h>
long f(long n) { return n ? 1 + f(n - 1) : 0; }
int main() { long a, b; scanf("%ld %ld", &a, &b); BODY }
"""
RUNS = {
    'printf("%ld\\n", a + b);': 1.0,
    'printf("3");': 0.5,
    # Recursion a million deep is honest in C++.
    'printf("%ld", a + b + f(1000000) - f(1000000));': 1.0,
    'printf("%ld", a + b); return 1;': 0.0,
    'printf("%ld", a + b); fflush(stdout); for (;;);': 0.0,
    'printf("%ld", a + b); fflush(stdout); abort();': 0.0,
    'for (;;) printf("%ld\\n", a + b);': 0.0,
    'auto p = (volatile char*)malloc(4l << 30); p[0] = p[1 << 30] = 1; printf("%ld", a + b);': 0.0,
    'if (fork() >= 0) printf("%ld", a + b);': 0.0,
    'if (!system("true")) printf("%ld", a + b);': 0.0,
    'if (fopen("/etc/passwd", "r")) printf("%ld", a + b);': 0.0,
    'if (!kill(getppid(), 0)) printf("%ld", a + b);': 0.0,
}
WITH_THE_WHOLE_LIBRARY = """
#include <bits/stdc++.h>
int main() {
    std::vector<int> v(2);
    for (auto& x : v) std::cin >> x;
    std::cout << std::accumulate(v.begin(), v.end(), 0);
}
"""
COMPILER_ATTACKS = {
    "no program": "this is no program",
    "read a file": '#include "/etc/shadow"\nint main() {}',
    "read a device": '#include "/dev/zero"\nint main() {}',
    "embed a file": 'asm(".incbin \\"/etc/shadow\\""); int main() {}',
    "endless template": "template <int n> struct X { X<n + 1> x; }; X<0> x; int main() {}",
    "endless constant": "constexpr long f() { long n = 0; while (n < 1l << 60) n++; return n; }\n"
    "static_assert(f(), \"\"); int main() {}",
    "huge object": "char x[1l << 33] = {1}; int main() { return x[0] - 1; }",
    "endless include": '#include __FILE__\nint main() {}',
}  # fmt: skip


def levels() -> list[str]:
    """The levels at which this machine can run C++ answers; none where it lacks the isolation or the compiler."""
    found = []
    for level in ("namespaces", "filters"):
        try:
            found += [level] if isolation_level(level).level == level and cpp_compiler() else []
        except SandboxError:
            continue
    return found


class Tight:
    """The local sandbox with limits short enough for a test."""

    def __init__(self, local: LocalSandbox):
        self.local = local

    def run(self, source, language, stdins, limits):
        return self.local.run(source, language, stdins, LIMITS)


@pytest.mark.parametrize("body", RUNS)
def test_answers_in_cpp(body):
    for level in levels():
        provider = Tight(LocalSandbox(True, at_most=level))
        assert code(f"```cpp\n{MAIN.replace('BODY', body)}\n```", TESTS, provider=provider) == RUNS[body], level


def test_an_answer_with_the_whole_library():
    for level in levels()[:1]:
        assert code(WITH_THE_WHOLE_LIBRARY, TESTS, provider=Tight(LocalSandbox(True, at_most=level))) == 1.0


@pytest.mark.parametrize("name", COMPILER_ATTACKS)
def test_attacks_on_the_compiler(name):
    for level in levels():
        sandbox = LocalSandbox(True, at_most=level)
        (outcome,) = sandbox.run(COMPILER_ATTACKS[name], "cpp", [""], LIMITS)
        assert outcome.status == "compile"
        assert "root:" not in outcome.stderr


def test_calls_have_no_cpp_form():
    tests = {"tests": [{"call": "f", "args": [], "expected": 1}]}
    answer = "```cpp\nint f() { return 1; }\n```"
    assert code(answer, tests, provider=LocalSandbox(True)) == 0.0  # the answer chose the wrong language
    assert code(answer, tests, language="cpp", provider=LocalSandbox(True)) is None  # the setting did


def test_without_a_compiler_the_setting_is_an_error_and_the_answer_is_wrong(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    cpp_compiler.cache_clear()
    try:
        if levels_without_compiler():
            with pytest.raises(FileNotFoundError, match="no g\\+\\+ on the PATH"):
                code("int main() {}", TESTS, language="cpp", allow_local_execution=True)
            (outcome,) = LocalSandbox(True).run("int main() {}", "cpp", [""], LIMITS)
            assert outcome.status == "compile"
    finally:
        cpp_compiler.cache_clear()


def levels_without_compiler() -> bool:
    try:
        return isolation_level().level != "limits"
    except SandboxError:
        return False
