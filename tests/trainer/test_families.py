"""Every family in docs/models.md trains on every kind of rows, as the table there says."""

from pathlib import Path

import pytest

from scripts import model_families

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", model_families.FAMILIES)
def test_a_family_trains_on_every_kind_of_rows(family, tmp_path):
    outcome = model_families.run_family(family, tmp_path)
    assert outcome.moved == outcome.trained
    assert outcome.difference <= 1e-4
    if len(outcome.trained) > 1:
        assert outcome.other_image > 1e-3, "the comparison would not see a wrong image"
    assert outcome.line in PAGE


def test_the_table_has_these_families_only():
    lines = PAGE.partition(model_families.START)[2].partition(model_families.END)[0].strip().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(model_families.FAMILIES)
