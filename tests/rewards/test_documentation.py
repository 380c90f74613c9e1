"""docs/rewards.md says what is: its examples run, its files load, its table is complete."""

import doctest
import os
import re
from pathlib import Path

import pytest

from omnirl_core.rewards import load_rewards
from omnirl_core.rewards.registry import SCORERS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "rewards.md"
TEXT = DOCS.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_examples_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, tried = doctest.testfile(os.fspath(DOCS), module_relative=False, optionflags=flags)
    assert tried >= 8
    assert failed == 0


def test_the_yaml_loads(tmp_path):
    (text,) = blocks("yaml")
    (tmp_path / "rewards.yaml").write_text(text)
    assert len(load_rewards(tmp_path / "rewards.yaml")) == 5


def test_the_own_reward_works(tmp_path):
    (tmp_path / "mine.py").write_text(blocks("python")[-1])
    (tmp_path / "rewards.yaml").write_text(
        "rewards:\n- {function: mine.py:same_initial, settings: {ignore_case: false}}"
    )
    (reward,) = load_rewards(tmp_path / "rewards.yaml")
    assert [reward.score(f"<answer>{a}</answer>", "Paris") for a in ("Porto", "porto", "")] == [1.0, 0.0, 0.0]
    assert reward.score("<answer>Porto</answer>", None) is None


def test_every_reward_is_in_the_table():
    table = TEXT.partition("## What there is")[2].partition("##")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(SCORERS)


@pytest.mark.parametrize("page", [DOCS, ROOT / "recipes" / "rewards" / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        assert (page.parent / target).exists(), target


def test_every_config_is_in_the_list():
    listed = re.findall(r"\((\w+)\.yaml\)", (ROOT / "recipes" / "rewards" / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "recipes" / "rewards").glob("*.yaml"))
