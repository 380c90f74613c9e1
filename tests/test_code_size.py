"""The packages stay small: files, lines of a file, length of functions, and `Any` in signatures."""

import pytest

from scripts.code_size import PACKAGES, ROOT, any_in_signatures, lines, measure

CORE = measure(ROOT / "omnirl_core")


def test_the_core_is_small():
    assert CORE.files <= 90
    assert CORE.median_function <= 10
    loose = [path.name for path in (ROOT / "omnirl_core").glob("*.py") if path.name != "__init__.py"]
    assert len(loose) <= 8, loose


def test_rewards_grow_by_at_most_1500_lines():
    """From 6,222, for the scorers of short answers, documents, captions, points, judges and probabilities."""
    assert measure(ROOT / "omnirl_core" / "rewards").lines <= 6_222 + 1_500


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_long(package):
    long = [path.name for path in (ROOT / package).rglob("*.py") if lines(path) > 400]
    assert set(long) <= {"grpo_trainer.py"}
    assert measure(ROOT / package).longest_file <= 500


def test_signatures_say_what_they_take():
    uses = any_in_signatures()
    assert len(uses) <= 40, "\n".join(uses)
