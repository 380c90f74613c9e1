"""In a forward without images the vision tower takes part with a gradient of exactly zero, or not at all."""

import copy
import dataclasses

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig


@pytest.fixture
def tower_calls():
    """Count the vision tower's forwards of a trainer's model."""

    def count(worker):
        calls = []
        worker.accelerator.unwrap_model(worker.model).get_submodule("model.visual")
        tower = next(module for name, module in worker.model.named_modules() if name.endswith("model.visual"))
        tower.register_forward_hook(lambda module, args, output: calls.append(torch.is_grad_enabled()))
        return calls

    return count


def _text(rows):
    return [rows[0], rows[3]]


def _step(worker, rows):
    worker.model.zero_grad()
    worker.current_gradient_accumulation_steps = 1
    worker._buffered_inputs = None
    worker.training_step(worker.model, [row for row in rows for _ in range(2)], None)
    return {name: parameter.grad for name, parameter in worker.model.named_parameters()}


def test_text_rows_give_the_tower_a_gradient_of_zero(trainer, rows):
    worker = trainer(rows, scripted=True, per_device_train_batch_size=4)
    gradients = _step(worker, _text(rows))
    tower = {name: g for name, g in gradients.items() if ".visual." in name}
    assert tower
    assert all(g is not None and torch.count_nonzero(g) == 0 for g in tower.values())
    assert any(torch.count_nonzero(g) for name, g in gradients.items() if ".visual." not in name)


def test_the_anchor_changes_nothing_else(trainer, rows):
    gradients = []
    for data in (rows, Dataset.from_list(_text(rows))):  # the second has no image by its columns
        worker = trainer(data, scripted=True, per_device_train_batch_size=4)
        gradients.append(_step(worker, _text(rows)))
    with_anchor, without = gradients
    assert all(without[name] is None for name in without if ".visual." in name)
    for name in without:
        if ".visual." not in name:
            assert torch.equal(with_anchor[name], without[name]), name


def test_mixed_steps_equal_steps_without_a_stale_gradient(trainer, rows):
    """A text-only step after a step with images leaves the vision tower where it was (SGD)."""
    worker = trainer(rows, scripted=True, per_device_train_batch_size=4, optim="sgd", max_steps=1)
    _step(worker, [rows[1], rows[5]])
    before = copy.deepcopy(worker.model.model.visual.state_dict())
    gradients = _step(worker, _text(rows))
    assert all(torch.count_nonzero(g) == 0 for name, g in gradients.items() if ".visual." in name)
    after = worker.model.model.visual.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def _run_the_tower(worker):
    """As under DeepSpeed and FSDP, which count on the order of modules and gradients."""
    backbone = worker.model.model
    backbone._dummy_image = dataclasses.replace(backbone._dummy_image, runs_tower=True)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_price_is_one_smallest_image_a_training_forward(trainer, rows, tower_calls, checkpointing):
    worker = trainer(
        rows, scripted=True, per_device_train_batch_size=4, beta=0.1, gradient_checkpointing=checkpointing
    )
    _run_the_tower(worker)
    calls = tower_calls(worker)
    _step(worker, _text(rows))
    assert calls == [True]  # not in the reference's pass, which needs no gradient and gathers nothing


def test_one_process_gives_the_same_gradients_without_running_the_tower(trainer, rows, tower_calls):
    worker = trainer(rows, scripted=True, per_device_train_batch_size=4)
    calls = tower_calls(worker)
    first, second = _step(worker, _text(rows)), _step(worker, _text(rows))
    assert calls == []
    _run_the_tower(worker)
    for gradients in (first, second):
        torch.testing.assert_close(gradients, _step(worker, _text(rows)), rtol=1e-3, atol=1e-6)


def test_a_decoding_step_is_left_alone_under_either_name_of_its_cache(trainer, rows, tower_calls):
    """A sharded run anchors passes without gradients too, but not one for every token that it generates."""
    worker = trainer(rows)
    backbone = worker.model.model
    backbone._dummy_image = dataclasses.replace(backbone._dummy_image, sharded=True, runs_tower=True)
    calls = tower_calls(worker)
    with torch.no_grad():
        worker.model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert len(calls) <= 1


def test_generation_and_evaluation_pay_nothing(trainer, rows, tower_calls):
    worker = trainer(rows, num_generations=2, per_device_eval_batch_size=2)
    calls = tower_calls(worker)
    worker.model.eval()
    worker.prediction_step(worker.model, [rows[0]] * 2, prediction_loss_only=True)
    assert calls == []


@pytest.mark.parametrize(("shared", "expected"), [("off", 0), ("on", 1)])
def test_decoding_steps_do_not_run_the_tower_of_a_sharded_model(trainer, rows, tower_calls, shared, expected):
    """Of 20 tokens; a shared prefill is a forward as any other, which runs it once."""
    worker = trainer(rows, shared_prefix=shared, max_completion_length=20, generation_kwargs={"min_new_tokens": 20})
    backbone = worker.model.model
    backbone._dummy_image = dataclasses.replace(backbone._dummy_image, sharded=True, runs_tower=True)
    calls = tower_calls(worker)
    monitored = worker._generate_single_turn
    lengths = []

    def rollout(*args, **kwargs):
        before = len(calls)
        completions = monitored(*args, **kwargs)
        lengths.append((len(completions[0][0]), len(calls) - before))
        return completions

    worker._generate_single_turn = rollout
    worker._generate_and_score_completions([rows[0]] * 2)
    assert lengths == [(20, expected)]


@pytest.mark.parametrize("images", [None, [], "no column"])
def test_a_run_without_images_pays_nothing(trainer, rows, tower_calls, images):
    data = [{"prompt": [{"role": "user", "content": "Say a word."}], "images": images} for _ in range(2)]
    if images == "no column":
        data = [{"prompt": row["prompt"]} for row in data]
    worker = trainer(Dataset.from_list(data), max_steps=2)
    calls = tower_calls(worker)
    worker.train()
    assert calls == []
    assert worker.state.global_step == 2


def test_a_frozen_tower_is_left_out(trainer, rows, tower_calls):
    worker = trainer(rows, scripted=True, per_device_train_batch_size=4, freeze_vision_tower=True)
    calls = tower_calls(worker)
    gradients = _step(worker, _text(rows))
    assert calls == []
    assert all(g is None for name, g in gradients.items() if ".visual." in name)


def test_adapters_in_the_tower_get_zero_too(trainer, rows):
    lora = LoraConfig(target_modules="all-linear")
    worker = trainer(rows, scripted=True, per_device_train_batch_size=4, extra={"peft_config": lora})
    gradients = _step(worker, _text(rows))
    tower = {name: g for name, g in gradients.items() if ".visual." in name and "lora" in name}
    assert tower
    assert all(g is not None and torch.count_nonzero(g) == 0 for g in tower.values())


def test_the_reference_model_has_its_own_anchor(trainer, rows):
    worker = trainer(rows, beta=0.1)
    assert worker.ref_model.model._dummy_image.inputs["image_grid_thw"].tolist() == [[1, 2, 2]]
    assert worker.ref_model.model is not worker.model.model


def test_a_copy_of_the_model_is_independent(trainer, rows):
    worker = trainer(rows)
    twin = copy.deepcopy(worker.model)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        twin.model.language_model.embed_tokens.weight.zero_()
    out = twin.model(input_ids=ids).last_hidden_state
    assert torch.count_nonzero(out) == 0  # the copy ran with its own weights
    out.sum().backward()
    assert twin.model.visual.patch_embed.proj.weight.grad is not None
    assert worker.model.model.visual.patch_embed.proj.weight.grad is None


def test_forward_takes_embeddings_and_positional_arguments(trainer, rows):
    backbone = trainer(rows).model.model
    ids = torch.tensor([[1, 2, 3]])
    expected = backbone(input_ids=ids).last_hidden_state
    assert torch.equal(backbone(ids).last_hidden_state, expected)
    embeddings = backbone.get_input_embeddings()(ids)
    out = backbone(inputs_embeds=embeddings, position_ids=torch.arange(3).expand(3, 1, 3)).last_hidden_state
    torch.testing.assert_close(out, expected)
    backbone.zero_grad()
    out.sum().backward()
    assert backbone.visual.patch_embed.proj.weight.grad is not None


def test_modules_and_gradients_come_in_the_order_of_a_forward_with_images(trainer, rows):
    """Under ZeRO-3 ranks gather parameters as modules run, and reduce gradients as they come, in one order."""
    worker = trainer(rows, scripted=True, per_device_train_batch_size=4)
    _run_the_tower(worker)
    names = {module: name for name, module in worker.model.named_modules()}
    came = []
    for module in worker.model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(lambda module, args: came.append(names[module]))
    for name, parameter in worker.model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter, name=name: came.append(f"gradient of {name}"))
    orders = []
    for batch in (_text(rows), [rows[1], rows[5]]):
        came.clear()
        _step(worker, batch)
        orders.append(list(came))
    assert orders[0] == orders[1]
    assert "gradient of model.visual.patch_embed.proj.weight" in orders[0]


@pytest.mark.parametrize("asked", [None, True, False])
def test_ddp_need_not_look_for_unused_parameters(trainer, rows, asked):
    worker = trainer(rows, ddp_find_unused_parameters=asked)
    assert worker.args.ddp_find_unused_parameters is bool(asked)
    assert worker.accelerator.ddp_handler.find_unused_parameters is bool(asked)  # what DDP is made with
    text = Dataset.from_list(_text(rows))
    assert trainer(text, ddp_find_unused_parameters=asked).args.ddp_find_unused_parameters is (asked is not False)


def test_every_parameter_takes_part_in_every_forward(trainer, rows):
    worker = trainer(rows, scripted=True, per_device_train_batch_size=4)
    for batch in (_text(rows), [rows[1], rows[5]], [rows[0], rows[2]]):
        assert all(gradient is not None for gradient in _step(worker, batch).values())
