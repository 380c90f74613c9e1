"""Every YAML of the repository reaches the object that it configures, strictly."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig

from omnirl_core.config.arguments import DataArguments, parse
from omnirl_core.data import load_records
from omnirl_core.rewards import load_rewards
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.yaml_loader import ConfigError, read_config
from omnirl_tools.sft import parse_sft

ROOT = Path(__file__).parents[2]
RECIPES = ("text_only", "image_text", "multi_image", "mixed", "rec")
YAMLS = sorted(path for path in ROOT.glob("recipes/*/*.yaml") if path.parent.name != "rewards")
PARTS = [path for path in YAMLS if path.parent.name == "hardware"]
REWARDS = [path for path in YAMLS if path.name.endswith("rewards.yaml")]
MIXTURES = [path for path in YAMLS if path.name == "rec.yaml"]
STARTS = [path for path in YAMLS if path.name.startswith("sft")]
RUNS = [path for path in YAMLS if path not in PARTS + MIXTURES + REWARDS + STARTS]
DEFAULTS = {f.name: f.default for part in (DataArguments, OmniGRPOConfig, ModelConfig) for f in fields(part)}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_whole(recipe):
    folder = ROOT / "recipes" / recipe
    assert {"README.md", "demo.yaml", "rewards.yaml"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("path", RUNS, ids=ids)
def test_run_configs_parse_and_name_files_that_exist(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    data, training, model = parse(
        ["--config", str(path), "--output_dir", str(tmp_path), "--bf16", "false", "--use_cpu", "true"]
    )
    assert Path(data.rewards).exists()
    assert model.model_name_or_path
    assert training.num_generations >= 2


@pytest.mark.parametrize("path", STARTS, ids=ids)
def test_warm_starts_parse(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    data, training, model = parse_sft(["--config", str(path), "--output_dir", str(tmp_path)])
    assert "{solution}" in training.response_template
    assert data.dataset_name
    assert model.model_name_or_path


@pytest.mark.parametrize("path", [*RUNS, *PARTS], ids=ids)
def test_a_config_says_only_what_differs(path):
    own = yaml.safe_load(path.read_text())
    included = own.pop("include", [])
    included = [included] if isinstance(included, str) else included
    below = dict(DEFAULTS)
    for name in included:
        below |= read_config(path.parent / name)
    assert set(own) <= set(DEFAULTS), "every key is a setting"
    idle = [key for key, value in own.items() if key != "seed" and below[key] == value]
    assert not idle, f"{path.name} repeats what holds without it: {idle}"


def test_every_part_is_used():
    used = {
        (path.parent / name).resolve()
        for path in RUNS
        for name in _names(yaml.safe_load(path.read_text()).get("include", []))
    }
    assert set(PARTS) <= used


def _names(included: str | list[str]) -> list[str]:
    return [included] if isinstance(included, str) else included


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_steps: 1\nmax_steps: 2", ":2: 'max_steps' appears twice"),
        ("include: [other.yaml]", "include names 'other.yaml', but there is no"),
        ("include: run.yaml", "includes itself: run.yaml -> run.yaml"),
        ("- max_steps", "expected lines of `name: value`"),
        ("max_stepz: 1", ":1: unknown setting 'max_stepz'; did you mean 'max_steps'?"),
        ("a: [", "not YAML"),
    ],
)
def test_a_broken_config_is_told_by_file_and_fault(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse(["--config", str(tmp_path / "run.yaml")])
    assert message in str(caught.value)
    assert "run.yaml" in str(caught.value)


@pytest.mark.parametrize("path", MIXTURES, ids=ids)
def test_mixtures_name_files_of_rows(path, tmp_path):
    names = [entry["json_path"] for entry in yaml.safe_load(path.read_text())["datasets"]]
    folder = tmp_path / "recipes" / path.parent.name
    folder.mkdir(parents=True)
    (folder / path.name).write_text(path.read_text())
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('[{"problem": "Where?", "solution": [0, 0, 4, 4]}]')
    assert len(load_records(folder / path.name)) == len(names)
    assert all((folder / name).resolve().is_relative_to(tmp_path / "data") for name in names)


@pytest.mark.parametrize("path", REWARDS, ids=ids)
def test_rewards_load(path):
    assert sum(reward.weight for reward in load_rewards(path)) > 0


@pytest.mark.parametrize("path", sorted(ROOT.glob("accelerate_configs/*.yaml")), ids=ids)
def test_accelerate_configs_are_what_accelerate_reads(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
