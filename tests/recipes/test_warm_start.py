"""A policy that earns nothing is said so before training, with a command that works."""

import shlex

import pytest
import torch

from omnirl_core.shapes import write_dataset
from omnirl_tools.sft import parse_sft
from omnirl_tools.warm_start import advice, advise_warm_start, unrewarded, warm_start_command
from recipes.grpo import main as grpo


def line(task, value, form=1.0):
    return {"task": task, "rewards": {"exact": value, "think_format": form}, "format_rewards": ["think_format"]}


def test_form_alone_is_no_reward():
    assert unrewarded([line("color", 0.0)] * 3) == []
    assert unrewarded([line("color", None)] * 3) is None  # only form is judged there
    assert unrewarded([line("color", 0.0)] * 3 + [line("count", 0.1)]) is None  # three are few
    assert unrewarded([line("color", 0.0)] * 8 + [line("count", 0.1)]) == ["color"]
    assert unrewarded([{"task": "color", "rewards": {"exact": None}, "format_rewards": []}] * 9) is None  # it failed
    assert "on samples of color: groups" in advice(["color"], 9, "python x.py")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """One step of the text demo; its output on stderr is captured by pytest."""
    data = write_dataset(tmp_path / "data", "text", 40, 0)
    (tmp_path / "rewards.yaml").write_text("rewards:\n  - {name: exact, weight: 1.0}\n  - {name: think_format}\n")

    def start(**settings):
        given = {
            "model_name_or_path": "tiny_policy", "dataset_name": data, "rewards": tmp_path / "rewards.yaml",
            "templates": '{"default": "plain"}', "use_cpu": "true", "bf16": "false", "max_steps": 1,
            "gradient_checkpointing": "false", "per_device_train_batch_size": 8, "num_generations": 4, "seed": 3,
            "max_completion_length": 1, "save_strategy": "no", "report_to": "none", "learning_rate": "1e-4",
            "output_dir": tmp_path / "run", **settings,
        }  # fmt: skip
        return grpo([part for name, value in given.items() for part in (f"--{name}", str(value))])

    return start


def test_it_is_said_before_training_with_a_command_that_reads(run, tmp_path, capsys):
    worker = run().trainer  # one token holds no answer
    said = capsys.readouterr().err
    assert "of 32 training prompts, answered once each, the policy earned no reward above 0 on any" in said
    command = next(text for text in said.splitlines() if "omnirl sft" in text)
    words = shlex.split(command)
    assert words[:2] == ["omnirl", "sft"]
    data, training, model = parse_sft(words[2:])
    assert data.dataset_name == str(tmp_path / "data" / "train.json")
    assert data.templates == {"default": "plain"}
    assert training.output_dir == f"{tmp_path}/run_sft"
    assert (training.max_steps, training.learning_rate, training.per_device_train_batch_size) == (40, 1e-3, 8)
    assert model.model_name_or_path == "tiny_policy"

    weights = torch.cat([p.detach().flatten() for p in worker.model.parameters()])
    again = run(warm_start_check="false", output_dir=tmp_path / "again").trainer
    assert "answered once each" not in capsys.readouterr().err
    assert torch.equal(weights, torch.cat([p.detach().flatten() for p in again.model.parameters()]))

    worker.args.max_completion_length = 48  # long enough for right answers
    assert advise_warm_start(worker, worker.reward_funcs, []) is None


def test_the_command_takes_over_what_sft_knows(run, monkeypatch):
    class Worker:
        engine = "zero3"

        class accelerator:
            num_processes = 2

        class args:
            output_dir, learning_rate, per_device_train_batch_size = "outputs/a b", 1e-6, 4

    words = ["--config", "recipes/mixed/demo.yaml", "--num-generations", "4", "--image-root", "my data", "--use_peft"]
    assert warm_start_command(Worker, words) == (  # type: ignore[arg-type]
        "omnirl sft --accelerate_config zero3 --num_processes 2 "
        "--config recipes/mixed/demo.yaml --image-root 'my data' --use_peft --output_dir 'outputs/a b_sft' "
        "--max_steps 40 --per_device_train_batch_size 4 --learning_rate 1e-05"
    )
