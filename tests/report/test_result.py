import json

import pytest

from omnirl_tools.evaluation.compare import compare
from omnirl_tools.report.result import peak_memory_gib, read_changes, write_result


def test_a_result_holds_what_compare_found(tmp_path):
    def lines(scores):
        return [
            {"row_id": f"a:{i}", "problem": "?", "modality": "text", "score": s, "rewards": {"exact": s}}
            for i, s in enumerate(scores)
        ]

    changes = compare(lines([0.0, 0.0, 1.0, 0.3]), lines([1.0, 0.5, 1.0, 0.2]))
    result = json.loads(write_result(tmp_path, changes, seconds=90).read_text())
    assert result["minutes"] == 1.5
    assert result["hardware"]
    assert result["peak_memory_gib"]["host"] > 0.1
    for kept, found in zip(read_changes(result), changes, strict=True):
        assert (kept.measure, kept.group, kept.n, kept.verdict) == (
            found.measure,
            found.group,
            found.n,
            found.verdict,
        )
        assert kept.difference == pytest.approx(found.difference, abs=2e-6)


def test_peak_memory_counts_in_gib():
    before = peak_memory_gib()["host"]
    block = bytearray(2**28)
    block[:: 2**12] = b"x" * len(block[:: 2**12])
    assert before <= peak_memory_gib()["host"] < before + 1
    assert peak_memory_gib()["host"] > 0.25
