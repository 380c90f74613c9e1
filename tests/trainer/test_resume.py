"""Six steps are three, a stop, and three more."""

import json

import pytest
import torch
from peft import LoraConfig

from omnirl_core.models import load_policy
from omnirl_core.trainer.checkpoints import restore_weights


def _parameters(worker):
    return torch.cat([p.detach().flatten() for p in worker.model.parameters()])


@pytest.fixture
def run(trainer, rows, tmp_path):
    def make(folder, resume=None, **settings):
        extra = (
            {"peft_config": LoraConfig(target_modules="all-linear")} if settings.pop("lora", False) else None
        )
        worker = trainer(
            rows,
            per_device_train_batch_size=4,
            save_strategy="steps",
            save_steps=3,
            max_steps=6,
            learning_rate=1e-2,
            output_dir=str(tmp_path / folder),
            extra=extra,
            **settings,
        )
        worker.train(resume_from_checkpoint=resume)
        return worker

    return make


@pytest.mark.parametrize(
    "settings", [{"beta": 0.1}, {"gradient_accumulation_steps": 2, "shared_prefix": "auto"}, {"lora": True}]
)
def test_resumed_is_uninterrupted(run, settings, tmp_path):
    whole = run("whole", **settings)
    assert torch.equal(
        _parameters(run("again", **settings)), _parameters(whole)
    )  # or equality would mean nothing

    halfway = str(tmp_path / "whole" / "checkpoint-3")
    resumed = run("resumed", halfway, **settings)
    assert resumed.state.global_step == 6
    assert torch.equal(_parameters(resumed), _parameters(whole))


def test_resume_restores_every_weight_of_the_checkpoint(run, trainer, rows, tmp_path):
    run("whole")
    halfway = tmp_path / "whole" / "checkpoint-3"
    saved = load_policy(str(halfway))
    fresh = trainer(rows)
    assert not torch.equal(_parameters(fresh), torch.cat([p.flatten() for p in saved.parameters()]))
    fresh._load_from_checkpoint(str(halfway))
    assert torch.equal(_parameters(fresh), torch.cat([p.detach().flatten() for p in saved.parameters()]))


def test_files_of_the_run_go_on_where_the_checkpoint_was(run, tmp_path):
    run("whole")
    run("whole", str(tmp_path / "whole" / "checkpoint-3"))
    for name in ("metrics.jsonl", "completions.jsonl"):
        lines = [json.loads(line) for line in (tmp_path / "whole" / name).read_text().splitlines()]
        steps = [line["step"] for line in lines]
        assert steps == sorted(steps)
        assert set(steps) == {1, 2, 3, 4, 5, 6}
        assert len({json.dumps(line) for line in lines}) == len(lines)


def test_the_best_model_comes_back(run, tmp_path, rows):
    def reward(completions, **columns):
        return [float(len(c[0]["content"])) for c in completions]

    worker = run(
        "best", eval_data=rows[:2], eval_strategy="steps", eval_steps=3, load_best_model_at_end=True,
        metric_for_best_model="eval_reward", greater_is_better=False, per_device_eval_batch_size=2,
    )  # fmt: skip
    best = load_policy(worker.state.best_model_checkpoint)
    assert torch.equal(_parameters(worker), torch.cat([p.detach().flatten() for p in best.parameters()]))


def test_another_models_checkpoint_is_refused(tiny_checkpoint, tiny_text_checkpoint, tmp_path):
    model = load_policy(tiny_checkpoint)
    state = {k: v for k, v in model.state_dict().items() if "visual" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"is not a checkpoint of this Qwen2_5_VLFor\w+: \d+ weights"):
        restore_weights(load_policy(tiny_checkpoint), tmp_path)


def test_rows_come_in_trls_order(trainer, rows):
    from trl import GRPOTrainer

    def order(kind, epochs):
        worker = trainer(rows)
        sampler = kind._get_train_sampler(worker)
        found = []
        for epoch in epochs:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            found.append(list(sampler))
        return found

    first, second, third = order(GRPOTrainer, [0, 1, 2])
    assert len({str(first), str(second), str(third)}) == 3
    assert order(type(trainer(rows)), [0, 1, 2]) == [first, second, third]
    assert order(type(trainer(rows)), [2]) == [third]
