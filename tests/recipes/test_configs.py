"""Every YAML of the repository reaches the object that it configures, strictly."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig

from omnirl_core.config import DataArguments, parse
from omnirl_core.data import load_records
from omnirl_core.rewards import load_rewards
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.yaml_loader import ConfigError
from omnirl_tools.sft import parse_sft

ROOT = Path(__file__).parents[2]
RECIPES = ("text_only", "image_text", "multi_image", "mixed", "rec")
YAMLS = sorted(path for path in ROOT.glob("recipes/*/*.yaml") if path.parent.name != "rewards")
REWARDS = [path for path in YAMLS if path.name.endswith("rewards.yaml")]
MIXTURES = [path for path in YAMLS if path.name == "rec.yaml"]
STARTS = [path for path in YAMLS if path.name.startswith("sft")]
RUNS = [path for path in YAMLS if path not in MIXTURES + REWARDS + STARTS]
DEFAULTS = {f.name: f.default for part in (DataArguments, OmniGRPOConfig, ModelConfig) for f in fields(part)}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("recipe", [*RECIPES, "documents"])
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
def test_warm_starts_parse(path, monkeypatch, tmp_path, recwarn):
    monkeypatch.chdir(ROOT)
    data, training, model = parse_sft(["--config", str(path), "--output_dir", str(tmp_path)])
    assert not [str(one.message) for one in recwarn if "deprecated" in str(one.message)]
    assert "{solution}" in training.response_template
    assert data.dataset_name
    assert model.model_name_or_path


@pytest.mark.parametrize("path", [*RUNS, *STARTS], ids=ids)
def test_a_config_is_whole_and_says_only_what_differs(path):
    own = yaml.safe_load(path.read_text())
    assert set(own) <= set(DEFAULTS) | {"response_template"}, "every key is a setting"
    assert {"model_name_or_path", "dataset_name", "rewards", "output_dir"} <= set(own)
    idle = [key for key, value in own.items() if key != "seed" and DEFAULTS.get(key) == value]
    assert not idle, f"{path.name} repeats what holds without it: {idle}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_variants_of_a_recipe_differ_where_their_machines_do(recipe):
    """What the same data wants of every machine is the same in each of the files that spell it out."""
    machine = {
        "output_dir", "use_peft", "lora_r", "lora_alpha", "lora_target_modules", "freeze_vision_tower", "load_in_4bit",
        "use_bnb_nested_quant", "max_pixels", "gradient_accumulation_steps", "learning_rate", "use_vllm", "vllm_mode",
        "vllm_enable_sleep_mode", "vllm_max_model_length", "vllm_server_host", "vllm_server_timeout",
        "gradient_checkpointing",
    }  # fmt: skip
    folder = ROOT / "recipes" / recipe
    on_gpus = [path for path in folder.glob("vllm_*.yaml") if path.name != "vllm_cpu.yaml"]
    names = [*folder.glob("qwen2_5_vl_3b*.yaml"), *on_gpus]
    configs = [yaml.safe_load(path.read_text()) for path in names]
    seven = yaml.safe_load((folder / "qwen2_5_vl_7b.yaml").read_text())
    configs.append(seven | {"model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"})
    shared = [{key: value for key, value in one.items() if key not in machine} for one in configs]
    assert all(one == shared[0] for one in shared)


@pytest.mark.parametrize("path", [*RUNS, *STARTS], ids=ids)
def test_the_command_at_the_top_starts_the_file(path):
    command = path.read_text().splitlines()[1]
    assert command.endswith(f"--config {path.relative_to(ROOT)}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_steps: 1\nmax_steps: 2", ":2: 'max_steps' appears twice"),
        (
            "include: other.yaml",
            ":1: `include` is not supported: a config holds all of its settings. Copy those of",
        ),
        ("- max_steps", "expected lines of `name: value`"),
        ("max_stepz: 1", ":1: unknown setting 'max_stepz'; did you mean 'max_steps'?"),
        ("a: [", "not YAML"),
    ],
)
def test_a_broken_config_is_reported_by_file_and_fault(tmp_path, text, message):
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
