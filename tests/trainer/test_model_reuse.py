"""A model that comes from an earlier trainer trains as a fresh model with its weights does."""

import copy

import pytest
import torch
from conftest import lazily, letters
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig

from omnirl_core.models import load_policy
from omnirl_core.trainer import OmniGRPOTrainer
from omnirl_core.trainer.preparation import release

LORA = LoraConfig(target_modules="all-linear", exclude_modules=["lm_head"], r=4, init_lora_weights=False)
FOUR = {"num_generations": 2, "per_device_train_batch_size": 4, "optim": "sgd", "max_grad_norm": 0.0}


@pytest.fixture
def fresh(tiny_checkpoint):
    """A model that no trainer has had, with the weights of another."""

    def make(model):
        twin = load_policy(tiny_checkpoint, dtype=model.dtype)
        twin.load_state_dict(model.state_dict())
        return twin

    return make


def moved(worker):
    start = {name: p.detach().clone() for name, p in worker.model.named_parameters()}
    worker.train()
    return {name: p.detach() - start[name] for name, p in worker.model.named_parameters()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert any(torch.count_nonzero(move) for move in ours.values())
    for name, move in ours.items():
        assert torch.equal(move, theirs[name]), name


@pytest.mark.parametrize("stage", ["again", "deepcopy", "merge_and_unload"])
@pytest.mark.parametrize("shared", ["off", "on"])
def test_a_second_trainer_equals_one_on_a_fresh_model(trainer, rows, fresh, stage, shared):
    lora = stage == "merge_and_unload"
    extra = {"extra": {"peft_config": LORA}} if lora else {}
    first = trainer(rows, shared_prefix=shared, bf16=True, **FOUR, **extra)
    first.train()
    if lora:
        model = first.model.merge_and_unload()
    else:
        model = copy.deepcopy(first.model) if stage == "deepcopy" else first.model
    twin = fresh(model)
    if stage == "deepcopy":  # a copy that still used the first model would give another answer
        with torch.no_grad():
            next(first.model.model.language_model.parameters()).zero_()
    runs = []
    for policy in (model, twin):
        torch.manual_seed(7)
        runs.append(moved(trainer(rows, model=policy, shared_prefix=shared, **FOUR, **extra)))
    assert_same(*runs)


def test_a_plain_config_on_one_model_three_times(rows, tiny_checkpoint, tmp_path):
    model = load_policy(tiny_checkpoint)
    config = GRPOConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, save_strategy="no",
        max_steps=1, max_completion_length=4, **FOUR,
    )  # fmt: skip
    for _ in range(3):
        worker = OmniGRPOTrainer(model, letters, config, lazily(rows))
        worker.train()
        assert worker.state.global_step == 1


def text_only(rows):
    return Dataset.from_list([{"prompt": row["prompt"]} for row in (rows[0], rows[3])])


def test_text_after_images_leaves_the_tower_as_it_is(trainer, rows):
    """Gradients of zero would have AdamW's weight decay move it."""
    model = trainer(rows, **FOUR).model
    settings = {**FOUR, "optim": "adamw_torch", "weight_decay": 0.5, "learning_rate": 1e-2}
    moves = moved(trainer(text_only(rows), model=model, **settings))
    assert not any(torch.count_nonzero(move) for name, move in moves.items() if ".visual." in name)
    assert any(torch.count_nonzero(move) for move in moves.values())
    assert model.model._dummy_image is None
    assert trainer(rows, model=model, **FOUR).model.model._dummy_image is not None


def test_a_tower_that_the_first_trainer_froze_trains_in_the_second(trainer, rows, tiny_checkpoint):
    model = load_policy(tiny_checkpoint)
    held = model.model.visual.patch_embed.proj.weight.requires_grad_(False)  # by its user, for good
    trainer(rows, model=model, freeze_vision_tower=True, **FOUR)
    assert not any(p.requires_grad for p in model.model.visual.parameters())
    trainer(rows, model=copy.deepcopy(model), freeze_vision_tower=True, **FOUR)
    trainer(rows, model=model, **FOUR)
    trains = {name: p.requires_grad for name, p in model.model.visual.named_parameters()}
    assert [name for name, is_trained in trains.items() if not is_trained] == ["patch_embed.proj.weight"]
    assert not held.requires_grad


def test_adapters_over_a_tower_that_was_frozen_leave_it_frozen(trainer, rows, tiny_checkpoint):
    model = load_policy(tiny_checkpoint)
    trainer(rows, model=model, freeze_vision_tower=True, **FOUR)
    worker = trainer(rows, model=model, freeze_vision_tower=True, extra={"peft_config": LORA}, **FOUR)
    names = [name for name, p in worker.model.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name and ".visual." not in name for name in names)


def test_a_forward_of_the_user_stays(tiny_checkpoint):
    model = load_policy(tiny_checkpoint)
    model.forward = own = lambda *args, **kwargs: None
    release(model)
    assert model.forward is own


def test_settings_used_twice_search_for_unused_parameters_as_the_data_asks(trainer, rows, config, tiny_checkpoint):
    args = config(**FOUR)
    searches = []
    for data in (lazily(rows), text_only(rows)):
        worker = OmniGRPOTrainer(tiny_checkpoint, letters, args, data)
        searches.append(worker.args.ddp_find_unused_parameters)
    assert searches == [False, True]
