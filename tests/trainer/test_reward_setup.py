"""A run's weights are its rewards' own, and every sample has a reward that judges its answer."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from omnirl_core.config import parse
from omnirl_core.data import DataError, load_dataset
from omnirl_core.rewards import load_rewards
from omnirl_core.rewards.load import Sample, accuracy_rewards, coverage_error
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.trainer.preparation import fit_rewards
from recipes import grpo

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
OWN_ROWS = json.loads(re.search(r"## Your own data\n\n```json\n(.*?)```", README, re.DOTALL)[1])
SHIPPED = [*sorted(ROOT.glob("recipes/rewards/*.yaml")), *sorted(ROOT.glob("recipes/*/*rewards.yaml"))]
SOLUTIONS = {
    "pointing.yaml": [10, 20, 50, 40], "screenspot_rewards.yaml": [0.25, 0.5, 0.375, 0.75],
    "code.yaml": {"tests": [{"input": "1", "output": "1"}]}, "rec_soft.yaml": [1, 2, 30, 40],
    "rec_strict.yaml": [1, 2, 30, 40], "detection.yaml": [[1, 2, 30, 40]], "multiple_choice.yaml": "B",
    "counting.yaml": 3, "math.yaml": 3,
}  # fmt: skip
SETTINGS = {
    "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 8, "max_steps": 1,
    "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "bf16": False, "report_to": "none", "beta": 0.0,
}  # fmt: skip


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "recipes"))


@pytest.fixture
def rows(tmp_path):
    def write(solution="red", n=4, **more) -> str:
        path = tmp_path / "rows.json"
        path.write_text(json.dumps([{"problem": f"What is {k}?", "solution": solution, **more} for k in range(n)]))
        return str(path)

    return write


def by_recipe(data: str, rewards: Path, model: str, folder: Path, **more) -> OmniGRPOTrainer:
    given = {
        **SETTINGS,
        "dataset_name": data,
        "rewards": rewards,
        "model_name_or_path": model,
        "output_dir": folder,
    }
    argv = [part for key, value in (given | more).items() for part in (f"--{key}", str(value))]
    return grpo.build(*parse(argv))[0]


def by_api(data: str, rewards: Path, model: str, folder: Path, **more) -> OmniGRPOTrainer:
    args = OmniGRPOConfig(str(folder), **{**SETTINGS, **more})
    return OmniGRPOTrainer(model, load_rewards(rewards), args, load_dataset(data))


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/rewards/*.yaml")), ids=lambda path: path.name)
def test_weights_by_the_python_api_are_those_by_the_recipe(path, rows, tiny_text_checkpoint, tmp_path):
    data = rows(SOLUTIONS.get(path.name, "red"))
    api = by_api(data, path, tiny_text_checkpoint, tmp_path / "api")
    recipe = by_recipe(data, path, tiny_text_checkpoint, tmp_path / "recipe")
    wanted = {reward.name: reward.weight for reward in load_rewards(path)}
    for trainer in (api, recipe):
        assert dict(zip(trainer.reward_func_names, trainer.reward_weights.tolist(), strict=True)) == pytest.approx(
            wanted
        )
    assert recipe.args.reward_weights == list(wanted.values())


def test_a_step_by_the_python_api_is_the_step_by_the_recipe(rows, tiny_text_checkpoint, tmp_path):
    data, path = rows("a red car stands on the road near it"), ROOT / "recipes/rewards/unified_text.yaml"
    trained = []
    for make in (by_api, by_recipe):
        trainer = make(data, path, tiny_text_checkpoint, tmp_path / make.__name__, learning_rate=0.1)
        trainer.train()
        trained.append(trainer)
    api, recipe = trained
    assert api.state.log_history[0]["reward"] == recipe.state.log_history[0]["reward"]
    for ours, theirs in zip(api.model.parameters(), recipe.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_given_weights_win_and_the_difference_is_reported(rows, tiny_text_checkpoint, tmp_path, caplog):
    path = ROOT / "recipes/rewards/counting.yaml"
    with caplog.at_level(logging.WARNING):
        api = by_api(rows(3), path, tiny_text_checkpoint, tmp_path, reward_weights=[0.5, 1.0])
    assert api.reward_weights.tolist() == [0.5, 1.0]
    assert "reward_weights overrides the rewards' own weights: think_format 0.5 (its own 0.2)" in caplog.text
    (tmp_path / "run.yaml").write_text("reward_weights: [0.5, 1.0]\n")
    recipe = by_recipe(rows(3), path, tiny_text_checkpoint, tmp_path, config=tmp_path / "run.yaml")
    assert [reward.weight for reward in recipe.reward_funcs] == recipe.reward_weights.tolist() == [0.5, 1.0]


def test_given_weights_lose_those_of_rewards_that_no_sample_needs(rows, tiny_text_checkpoint, tmp_path):
    path = ROOT / "recipes/mixed/rewards.yaml"
    given = [reward.weight / 2 for reward in load_rewards(path)]
    trainer = by_api(rows(task="color"), path, tiny_text_checkpoint, tmp_path, reward_weights=given)
    assert trainer.reward_func_names == ["think_format", "exact", "overlap", "box_iou"]
    assert trainer.reward_weights.tolist() == pytest.approx([0.1, 0.5, 0.5, 0.5])


# -- every sample has a judge --------------------------------------------------------------------------------------

REFUSED = {
    "rewards/chinese_text.yaml": None, "rewards/multiple_choice.yaml": "choice", "rewards/code.yaml": "code",
    "rewards/detection.yaml": "box_f1", "rewards/rec_soft.yaml": "box_iou", "rewards/rec_strict.yaml": "box_iou",
    "rec/rewards.yaml": "box_iou", "rewards/counting.yaml": "number", "rewards/math.yaml": "math",
    "rewards/pointing.yaml": "point_gaussian", "datasets/screenspot_rewards.yaml": "point_gaussian",
}  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_the_rows_of_the_readme_are_judged_or_refused(path):
    """Box, code and letter judges cannot read them, and say so; every other shipped file judges each row."""
    samples = [Sample(f"train.json:{k}", row.get("task"), row["solution"]) for k, row in enumerate(OWN_ROWS, 1)]
    rewards = load_rewards(path)
    error = coverage_error(samples, rewards)
    unread = [one for one in samples if not any(
        reward.applies_to(None) and reward.score("<think>a</think><answer>a</answer>", one.solution) is not None
        for reward in accuracy_rewards(rewards) if reward.name not in ("code", "judge")
    )]  # fmt: skip
    if reason := REFUSED.get(name_of(path)):
        assert error is None if reason == "code" else f"no reward can read ({reason}" in error
    else:
        assert error is None
        assert not unread or path.stem == "judge"  # whose model is not there


def test_a_choice_written_as_text_is_judged_by_its_options():
    rewards = load_rewards(ROOT / "recipes/rewards/multiple_choice.yaml")
    assert coverage_error([Sample("train.json:1", None, "cab", ["cab", "bus"])], rewards) is None
    assert "no reward can read (choice)" in coverage_error([Sample("train.json:1", None, "cab")], rewards)


def test_the_rows_of_the_readme_train_under_the_mixed_rewards(tiny_checkpoint, tmp_path):
    (tmp_path / "img").mkdir()
    for number in (1, 2):
        Image.new("RGB", (40, 32), "red").save(tmp_path / f"img/{number}.png")
    (tmp_path / "train.json").write_text(json.dumps(OWN_ROWS))
    path = ROOT / "recipes/mixed/rewards.yaml"
    args = OmniGRPOConfig(str(tmp_path), **{**SETTINGS, "per_device_train_batch_size": 6})
    data = load_dataset(tmp_path / "train.json", image_root=tmp_path)
    trainer = OmniGRPOTrainer(tiny_checkpoint, load_rewards(path), args, data)
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(line["rewards"]["answer_or_overlap"] is not None for line in lines)


def test_samples_that_no_reward_judges_stop_the_run_before_a_model_is_loaded(rows, tmp_path):
    (tmp_path / "rewards.yaml").write_text(
        "rewards:\n- {name: think_format, weight: 0.2}\n- {name: exact, tasks: [color, shape]}\n"
    )
    with pytest.raises(DataError) as error:
        by_recipe(rows("red", n=3, task="colour"), tmp_path / "rewards.yaml", "no/model", tmp_path / "run")
    assert "3 of 3 samples have no reward that judges their answer" in str(error.value)
    assert "3 of task 'colour'" in str(error.value)
    assert "the rewards name the tasks 'color', 'shape'" in str(error.value)


def test_a_reward_for_samples_without_a_task_goes_where_all_name_one(rows, tiny_text_checkpoint, tmp_path):
    """So that what the demos log and show stays as it is."""
    trainer = by_recipe(rows(task="color"), ROOT / "recipes/mixed/rewards.yaml", tiny_text_checkpoint, tmp_path)
    assert trainer.reward_func_names == ["think_format", "exact", "overlap", "box_iou"]


def test_form_alone_is_reported_and_other_functions_are_left_alone(rows, caplog):
    form = [
        reward for reward in load_rewards(ROOT / "recipes/text_only/rewards.yaml") if reward.name == "think_format"
    ]
    data = load_dataset(rows())
    assert fit_rewards(form, data) == form
    assert "no reward judges whether an answer is right, only how it is written: think_format" in caplog.text

    def own(completions, **columns):
        return [1.0] * len(completions)

    assert fit_rewards(own, data) is own
    assert coverage_error([Sample("a:1", None, "red")], [own]) is None
