"""The estimate against the peak of real steps in a fresh process; benchmarks/memory.py measures all of its cases."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BOUND = 0.15


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """benchmarks/memory.py, and the policy that it measures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import memory

        folder = str(tmp_path_factory.mktemp("policy"))
        memory.write_checkpoint(folder, "memory")
        yield memory, folder
    sys.modules.pop("memory", None)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [pytest.param("full-text", marks=pytest.mark.repeat), "full-image, checkpointing"])
def test_the_peak_is_as_estimated(benchmark, name):
    memory, folder = benchmark
    case = memory.CASES[name]
    estimated, measured = memory.estimate(case, folder).peak, memory.measure(case, folder)
    assert measured > 500 * 2**20  # of tensors: what a process holds besides is not in it
    assert estimated == pytest.approx(measured, rel=BOUND)
