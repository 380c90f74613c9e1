"""Every YAML of the repository reaches the object that it configures, strictly."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig

from omnirl_core.arguments import DataArguments, parse
from omnirl_core.rewards import load_rewards
from omnirl_core.trainer import OmniGRPOConfig

ROOT = Path(__file__).parents[2]
YAMLS = sorted(path for path in ROOT.glob("recipes/*/*.yaml") if path.parent.name != "rewards")
RUNS = [path for path in YAMLS if path.name != "rewards.yaml"]
REWARDS = [path for path in YAMLS if path.name == "rewards.yaml"]


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_recipes():
    assert len(RUNS) >= 1
    assert len(REWARDS) >= 1


@pytest.mark.parametrize("path", RUNS, ids=ids)
def test_run_configs_parse_and_name_files_that_exist(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    data, training, model = parse(
        ["--config", str(path), "--output_dir", str(tmp_path), "--bf16", "false", "--use_cpu", "true"]
    )
    assert Path(data.rewards).exists()
    assert model.model_name_or_path
    defaults = {
        f.name: f.default for part in (DataArguments, OmniGRPOConfig, ModelConfig) for f in fields(part)
    }
    idle = [k for k, v in yaml.safe_load(path.read_text()).items() if k != "seed" and defaults[k] == v]
    assert not idle, f"{path.name} repeats defaults: {idle}"
    assert training.num_generations >= 2


@pytest.mark.parametrize("path", REWARDS, ids=ids)
def test_rewards_load(path):
    assert sum(reward.weight for reward in load_rewards(path)) > 0


@pytest.mark.parametrize("path", sorted(ROOT.glob("accelerate_configs/*.yaml")), ids=ids)
def test_accelerate_configs_are_what_accelerate_reads(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
