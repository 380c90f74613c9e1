"""Each recipe of recipes/datasets on a replica of its data set: what is read, the checks, and two training steps."""

import os
from pathlib import Path

import datasets
import pytest

from omnirl_core.config import parse
from omnirl_core.data import load_dataset, load_records
from omnirl_core.rewards.load import accuracy_rewards
from omnirl_core.yaml_loader import read_config
from omnirl_tools.cli import main as omnirl
from omnirl_tools.evaluation.lines import read_lines
from recipes.grpo import build
from scripts import dataset_table
from tests.recipes.hub_replicas import REPLICAS

ROOT = Path(__file__).parents[2]
SMALL = [
    "--use_cpu", "true", "--max_steps", "2", "--max_completion_length", "8",
    "--save_strategy", "no", "--num_generations", "2", "--per_device_train_batch_size", "2", "--eval_rows", "1",
    "--gradient_accumulation_steps", "1", "--logging_steps", "1", "--dtype", "float32",
    "--gradient_checkpointing", "false",
]  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """A folder in which `datasets` finds the replicas under their hub names, beside our recipes."""
    folder = tmp_path_factory.mktemp("hub")
    for replica in REPLICAS.values():
        replica.write(folder)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


@pytest.fixture(autouse=True)
def _at_the_hub(hub, monkeypatch):
    monkeypatch.chdir(hub)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(hub / "cache"))


def test_every_recipe_has_a_replica_and_there_are_twelve():
    assert [path.stem for path in dataset_table.recipes()] == sorted(REPLICAS)
    assert len(REPLICAS) >= 12


@pytest.mark.parametrize("name", REPLICAS)
def test_a_recipe_reads_its_data_set(name):
    replica, own = REPLICAS[name], read_config(f"recipes/datasets/{name}.yaml")
    record = load_records(own["dataset_name"], columns=own["columns"])[0]
    assert (record.problem, record.solution) == (replica.problem, replica.solution)
    assert len(record.images) == replica.n_images
    assert record.extra.get("options") == replica.options
    row = load_dataset(own["dataset_name"], columns=own["columns"], templates=own.get("templates"))[0]
    assert all(text in str(row["prompt"]) for text in replica.options or ["<answer>"])


def test_samples_with_and_without_an_image_stand_in_one_set():
    own = read_config("recipes/datasets/scienceqa.yaml")
    records = load_records(own["dataset_name"], columns=own["columns"])
    assert [len(record.images) for record in records] == [1, 0, 1, 0, 1, 0]
    assert records[0].extra["explanation"].startswith("To find the answer")
    assert records[0].extra["kind"] == "closed choice"
    assert records[0].task is None


@pytest.mark.parametrize("name", REPLICAS)
def test_the_checks_find_nothing_and_two_steps_are_taken(name, tmp_path, capsys, tiny_checkpoint):
    config = f"recipes/datasets/{name}.yaml"
    checked = [config, "--model_name_or_path", tiny_checkpoint, "--output_dir", str(tmp_path), "--workers", "1"]
    assert omnirl(["check-data", *checked]) == 0, capsys.readouterr().out
    assert omnirl(["check-rewards", *checked]) == 0, capsys.readouterr().out
    run = ["--config", config, "--model_name_or_path", tiny_checkpoint, "--output_dir", str(tmp_path / "run"), *SMALL]
    trainer, rewards, held_out = build(*parse(run))
    trainer.train()
    assert trainer.state.global_step == 2
    assert held_out
    judges = {reward.name for reward in accuracy_rewards(rewards)}
    lines = list(read_lines(tmp_path / "run" / "completions.jsonl"))
    assert len(lines) == 2 * 2
    for line in lines:
        assert [judge for judge in judges if line["rewards"].get(judge) is not None], line


def test_the_table_is_the_readme_s():
    assert dataset_table.table() in dataset_table.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REPLICAS)
def test_a_recipe_says_what_it_knows(name):
    text = (ROOT / "recipes" / "datasets" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"https://huggingface.co/datasets/{REPLICAS[name].hub}\n" in text
    for word in ("# Licence: ", "# Columns: ", "# Answer: ", "# Schema from: ", "# Not run on the real data"):
        assert word in text
    columns = text.partition("# Columns: ")[2].partition("# Answer")[0]
    assert all(column in columns for column in REPLICAS[name].features)
    assert os.path.getsize(ROOT / "recipes" / "datasets" / f"{name}.yaml") < 4000
