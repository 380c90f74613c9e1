"""How often the vision tower, the processor and the collectives meet an image when prefixes are shared."""

import pytest
import torch

from omnirl_core.models import vision_tower
from omnirl_core.trainer.shared_prefix.runtime import PROMPTS

EIGHT_ROWS = {"num_generations": 4, "per_device_train_batch_size": 8, "max_steps": 1}


class Counted:
    """Images per call of a model's vision tower, in order."""

    def __init__(self, model):
        self.calls = []
        vision_tower(model).register_forward_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs, output):
        self.calls.append(len(kwargs["grid_thw"]))


def test_the_tower_runs_once_a_distinct_prompt_in_rollout_and_in_each_pass(trainer, rows):
    data = [rows[2], rows[1]]  # three images and one
    worker = trainer(data, shared_prefix="on", beta=0.1, num_iterations=2, **EIGHT_ROWS)
    policy, reference = Counted(worker.model), Counted(worker.accelerator.unwrap_model(worker.ref_model))
    worker.train()
    assert policy.calls == [4, 4, 4]  # rollout, old log-probabilities, training
    assert reference.calls == [4]
    plain = trainer(data, shared_prefix="off", beta=0.1, num_iterations=2, **EIGHT_ROWS)
    policy = Counted(plain.model)
    plain.train()
    assert policy.calls == [16, 16, 16]


def test_scoring_runs_a_prompt_once_a_pack_of_the_batch_size(trainer, rows):
    settings = {
        **EIGHT_ROWS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "max_steps": 1,
    }
    worker = trainer([rows[2], rows[1]], shared_prefix="on", beta=0.1, num_iterations=2, **settings)
    policy, reference = Counted(worker.model), Counted(worker.accelerator.unwrap_model(worker.ref_model))
    worker.train()
    assert policy.calls[0] == 4  # rollout
    assert sorted(policy.calls[1:5]) == [1, 1, 3, 3]  # old log-probabilities: half a group a pack
    assert sorted(policy.calls[5:]) == [1, 1, 3, 3]  # and a micro-batch
    assert sorted(reference.calls) == [1, 1, 3, 3]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 6])
def test_no_forward_of_scoring_has_more_tokens_than_trls(trainer, rows, batch_size):
    sizes, values = {}, {}
    for shared in ("on", "off"):
        worker = trainer([rows[2], rows[3]], shared_prefix=shared, num_generations=4, scripted=True,
                         per_device_train_batch_size=batch_size, gradient_accumulation_steps=12 // batch_size,
                         num_iterations=2)  # fmt: skip
        worker.model.train()
        found = sizes[shared] = []

        def tokens(module, args, kwargs, found=found):
            if not torch.is_grad_enabled():
                found.append(kwargs["input_ids"].numel())

        worker.model.register_forward_pre_hook(tokens, with_kwargs=True)
        batch = [rows[2]] * 4 + [rows[3]] * 4 + [rows[0]] * 4
        values[shared] = worker._generate_and_score_completions([dict(row) for row in batch])
    assert max(sizes["on"]) <= max(sizes["off"])
    if batch_size % 4 == 0:
        assert len(sizes["on"]) == 12 // batch_size  # whole groups: as many forwards, each prompt once
        assert sum(sizes["on"]) < 0.6 * sum(sizes["off"])
    mask = values["off"]["completion_mask"].bool()
    assert torch.equal(values["on"]["completion_ids"], values["off"]["completion_ids"])
    ours, theirs = (values[shared]["old_per_token_logps"][mask] for shared in ("on", "off"))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_images_are_processed_once_and_buffered_once(trainer, rows):
    worker = trainer([rows[2], rows[1]], shared_prefix="on", **EIGHT_ROWS)
    processed = []
    plain = worker.processing_class.image_processor._preprocess

    def preprocess(images, *args, **kwargs):
        processed.append(len(images))
        return plain(images, *args, **kwargs)

    worker.processing_class.image_processor._preprocess = preprocess
    worker.train()
    assert sum(processed) == 4
    [batch] = worker._buffered_inputs
    assert len(set(batch[PROMPTS])) == 2
    assert "pixel_values" not in batch
    assert len(batch[PROMPTS]) == len(batch["completion_ids"]) == 8


def test_no_image_goes_through_a_collective(trainer, rows, monkeypatch):
    gathered = []
    monkeypatch.setattr("trl.trainer.grpo_trainer.gather_object", lambda values: gathered.extend(values) or values)
    worker = trainer([rows[2], rows[1]], shared_prefix="on", **EIGHT_ROWS)
    worker.train()
    prompts = [value for value in gathered if isinstance(value, list) and value and "content" in value[0]]
    blocks = [block for prompt in prompts for message in prompt for block in message["content"] if "type" in block]
    image_files = [block for block in blocks if block["type"] == "image"]
    assert len(image_files) == 16
    assert all(block == {"type": "image"} for block in image_files)
