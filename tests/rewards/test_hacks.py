"""Cheap hacks under every config of recipes/rewards, and the table of them in the docs."""

import importlib.util
from pathlib import Path

import pytest

from omnirl_core.rewards import load_rewards
from omnirl_tools.checks.hacks import BLIND, formed

ROOT = Path(__file__).parents[2]
MOST = 0.25
"""Share of a right, well-formed answer's reward that a hack may earn."""


def load_script():
    spec = importlib.util.spec_from_file_location("hack_table", ROOT / "scripts" / "hack_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hack_table = load_script()
WRONG_WITH_REFERENCE = ("answer in thought", "answer shuffled", "answer, then no")


@pytest.fixture(scope="module")
def by_config():
    return hack_table.config_table()


def test_every_config_that_promises_it_is_held_to_it(by_config):
    files = {path.stem for path in (ROOT / "recipes" / "rewards").glob("*.yaml")}
    # the last two ask a model: tests/trainer/test_blind_thoughts.py, tests/rewards/test_judge.py
    assert files - set(by_config) == {"original_scheme", "reference_probability", "judge"}


@pytest.mark.parametrize("config", hack_table.OF_CONFIG)
def test_no_hack_without_the_right_answer_earns_more_than_a_quarter(by_config, config):
    hacks = [*BLIND, *WRONG_WITH_REFERENCE]
    assert len(hacks) >= 10
    assert {hack: share for hack in hacks if (share := by_config[config][hack]) > MOST} == {}


@pytest.mark.parametrize("config", hack_table.OF_CONFIG)
def test_nothing_made_from_the_reference_earns_more_than_the_reference(by_config, config):
    assert max(by_config[config].values()) <= 1.0 + 1e-9


@pytest.mark.parametrize("config", hack_table.OF_CONFIG)
def test_the_right_answer_earns_everything(config):
    rewards = load_rewards(ROOT / "recipes" / "rewards" / f"{config}.yaml")
    for sample in hack_table.OF_CONFIG[config]:
        most = sum(r.weight for r in rewards if r.weight > 0 and r.applies_to(sample.task))
        assert hack_table.total(rewards, sample, sample.right) == pytest.approx(most, abs=0.02 * most)


FORM_ALONE = {
    "think_format", "length_band", "repetition", "language_consistency", "overlong", "json_format", "markdown_format",
}  # fmt: skip
"""Rewards that say nothing about the answer; they are for gates."""


def test_no_blind_hack_earns_more_than_a_quarter_under_a_reward_alone():
    table = hack_table.reward_table()
    assert {
        (name, hack) for name, row in table.items() if name not in FORM_ALONE for hack in BLIND if row[hack] > MOST
    } == set()


def test_the_originals_scheme_pays_for_commas():
    """Why original_scheme makes no such promise: 992 commas beat a right answer."""
    rewards = load_rewards(ROOT / "recipes" / "rewards" / "original_scheme.yaml")
    sample = hack_table.TEXT[0]
    commas = formed(".", think="," * 960)
    assert hack_table.total(rewards, sample, commas) > hack_table.total(rewards, sample, sample.right)


def test_the_tables_in_the_docs_are_the_scripts():
    docs = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    made = hack_table.START + docs.partition(hack_table.START)[2].partition(hack_table.END)[0] + hack_table.END
    assert made == hack_table.render(), "run: python scripts/hack_table.py --write"
