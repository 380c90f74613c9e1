"""Six steps are three, a stop, and three more."""

import json

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from omnirl_core.models import load_policy
from omnirl_core.trainer.fault_tolerance.checkpoint_storage import (
    REFERENCE,
    restore_reference,
    restore_weights,
    save_reference,
)


def _parameters(worker):
    return torch.cat([p.detach().flatten() for p in worker.model.parameters()])


@pytest.fixture
def run(trainer, rows, tmp_path):
    def make(folder, resume=None, **settings):
        extra = {"peft_config": LoraConfig(target_modules="all-linear")} if settings.pop("lora", False) else None
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
    "settings",
    [
        {"beta": 0.1}, {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5},
        {"gradient_accumulation_steps": 2, "shared_prefix": "auto"}, {"lora": True},
    ],
    ids=str,
)  # fmt: skip
def test_resumed_is_uninterrupted(run, settings, tmp_path):
    whole = run("whole", **settings)
    assert torch.equal(_parameters(run("again", **settings)), _parameters(whole))  # or equality would mean nothing

    halfway = str(tmp_path / "whole" / "checkpoint-3")
    resumed = run("resumed", halfway, **settings)
    assert resumed.state.global_step == 6
    assert torch.equal(_parameters(resumed), _parameters(whole))
    kl = [[line.get("kl") for line in worker.state.log_history[:6]] for worker in (whole, resumed)]
    assert kl[0] == kl[1]
    if "sync_ref_model" in settings:
        assert whole.ref_model is not None
        references = [torch.cat([p.flatten() for p in x.ref_model.parameters()]) for x in (whole, resumed)]
        assert torch.equal(*references)


def test_a_reference_that_follows_the_policy_and_is_not_there_is_said(run, tmp_path, caplog):
    run("whole", beta=0.1)
    settings = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1}
    run("resumed", str(tmp_path / "whole" / "checkpoint-3"), **settings)
    assert "checkpoint-3 holds no reference.safetensors: sync_ref_model goes on from" in caplog.text


def test_another_models_reference_is_refused(tiny_text_checkpoint, tiny_checkpoint, tmp_path):
    path = tmp_path / REFERENCE
    save_reference(load_policy(tiny_text_checkpoint), path, writes=True)
    with pytest.raises(ValueError, match=r"reference.safetensors is not of this reference model: \['"):
        restore_reference(load_policy(tiny_checkpoint), path)


def test_a_sharded_reference_is_saved_whole_and_restored_in_its_shards(tmp_path):
    """As FSDP2 shards it; ZeRO-3 is in tests/scripts/test_kill_points.py."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = nn.Linear(3, 4)
        for name, parameter in list(model.named_parameters()):
            setattr(model, name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)])))
        before = model.weight.full_tensor().clone()
        save_reference(model, tmp_path / REFERENCE, writes=True)
        assert torch.equal(load_file(tmp_path / REFERENCE)["weight"], before)
        with torch.no_grad():
            model.weight.add_(1.0)
        restore_reference(model, tmp_path / REFERENCE)
        assert isinstance(model.weight, DTensor)
        assert torch.equal(model.weight.full_tensor(), before)
    finally:
        dist.destroy_process_group()


def test_each_parameter_is_restored_in_its_own_dtype(tiny_checkpoint, tmp_path):
    def mixed():
        model = load_policy(tiny_checkpoint, dtype=torch.bfloat16)
        model.lm_head.float()  # as TRL's cast_lm_head_to_fp32
        return model

    saved, restored = mixed(), mixed()
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    assert {p.dtype for p in saved.parameters()} == {torch.bfloat16, torch.float32}
    saved.save_pretrained(tmp_path)
    restore_weights(restored, tmp_path)
    for (name, parameter), expected in zip(restored.named_parameters(), saved.parameters(), strict=True):
        assert parameter.dtype == expected.dtype, name
        assert torch.equal(parameter, expected), name


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
