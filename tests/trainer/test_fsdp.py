"""FSDP2 where it cannot start; tests/trainer/test_distributed.py holds it to the single process where it can."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from omnirl_core.trainer import OmniGRPOTrainer
from omnirl_core.trainer.fsdp import (
    gathered_for_generation,
    refuse_early_evaluation,
    trainable_after_reference,
)
from omnirl_core.trainer.preparation import Preparation


@pytest.mark.parametrize(
    ("asked", "kind", "refused"),
    [
        ("true", DistributedType.MULTI_CPU, True),
        ("true", DistributedType.MULTI_GPU, False),
        ("false", DistributedType.MULTI_CPU, False),
    ],
)
def test_fsdp_on_cpus_is_refused(asked, kind, refused, monkeypatch, tiny_checkpoint):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", asked)
    state = SimpleNamespace(distributed_type=kind)
    args = SimpleNamespace(distributed_state=state, trust_remote_code=False, use_vllm=False)
    ready = Preparation(tiny_checkpoint, args, None, None, None, None, None, False)
    if not refused:
        ready.apply()
        return
    with pytest.raises(ValueError, match=r"FSDP is asked for on CPUs.*/ddp\.yaml or zero3\.yaml"):
        ready.apply()


@pytest.mark.parametrize("engine", ["fsdp2", "zero2"])
def test_evaluation_before_training_is_refused(trainer, rows, monkeypatch, engine):
    worker = trainer(rows[:2], eval_data=rows[:2], scripted=True)
    monkeypatch.setattr(OmniGRPOTrainer, "engine", engine)
    with pytest.raises(ValueError, match=rf"evaluate\(\) before train\(\) .* under {engine}.*eval_on_start: true"):
        worker.evaluate()


def test_training_after_an_evaluation_that_set_up_deepspeed_without_an_optimizer_is_refused(trainer, rows):
    """Under ZeRO-3 it would end with "'NoneType' object has no attribute 'backward'" after the first rollout."""
    worker = trainer(rows[:2], scripted=True)
    worker.deepspeed = SimpleNamespace(basic_optimizer=None)
    with pytest.raises(ValueError, match=r"evaluate\(\) before train\(\) .*eval_on_start: true"):
        worker.train()


def test_evaluation_of_what_training_has_set_up_is_not_refused():
    model = torch.nn.Linear(2, 2)
    model.__class__ = type("FSDPLinear", (FSDPModule, torch.nn.Linear), {})  # as `fully_shard` makes it
    refuse_early_evaluation(SimpleNamespace(engine="fsdp2", model=model, deepspeed=None))
    trained = SimpleNamespace(basic_optimizer=object())
    refuse_early_evaluation(SimpleNamespace(engine="zero2", model=torch.nn.Linear(2, 2), deepspeed=trained))
    refuse_early_evaluation(SimpleNamespace(engine="zero3", deepspeed=trained), trains=True)


def test_a_model_that_is_not_sharded_is_left_alone():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with gathered_for_generation(model), trainable_after_reference(model):
        model.weight.requires_grad_(False)
    assert not model.weight.requires_grad
    assert not hasattr(model, "_gather_for_generation")
