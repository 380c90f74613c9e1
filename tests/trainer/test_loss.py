"""The loss and its whole gradient are GRPO's formula, written out here row by row in float64."""

import copy

import pytest
import torch
from PIL import Image

GROUP, LIMIT = 3, 8


def _log_probabilities(model, processor, row, prompt_ids, completion_ids):
    """Of one completion, from plain logits of one unpadded row, processed on its own."""
    ids = torch.tensor([prompt_ids + completion_ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if row["images"]:
        image_files = processor.image_processor(
            images=[Image.open(path).convert("RGB") for path in row["images"]], return_tensors="pt"
        )
        inputs |= {
            "pixel_values": image_files["pixel_values"].double(),
            "image_grid_thw": image_files["image_grid_thw"],
        }
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    logits = model(**inputs).logits[0, len(prompt_ids) - 1 : -1]  # (C, V)
    return logits.log_softmax(-1).gather(1, torch.tensor(completion_ids)[:, None])[:, 0]


def _formula(loss_type, beta, policy, reference, processor, rows, prompts, completions, rewards):
    rewards = torch.tensor(rewards, dtype=torch.double).view(-1, GROUP)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    sums, lengths = [], []
    for row, prompt, completion, advantage in zip(rows, prompts, completions, advantages.flatten(), strict=True):
        new = _log_probabilities(policy, processor, row, prompt, completion)
        ratio = (new - new.detach()).exp()
        objective = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        if beta:
            with torch.no_grad():
                old = _log_probabilities(reference, processor, row, prompt, completion)
            # k3 times the ratio: use_bias_correction_kl is TRL 1.16's default
            objective = objective - beta * ((old - new).exp() - (old - new) - 1) * ratio
        sums.append(-objective.sum())
        lengths.append(len(completion))
    sums, lengths = torch.stack(sums), torch.tensor(lengths)
    if loss_type == "grpo":
        return (sums / lengths).mean()
    if loss_type == "dr_grpo":
        return sums.sum() / (len(sums) * LIMIT)
    return sums.sum() / lengths.sum()  # dapo; bnpo in one micro-batch


@pytest.mark.parametrize(
    ("loss_type", "beta", "micro_batches"),
    [
        ("grpo", 0.1, 1),
        ("dapo", 0.1, 6),
        ("dapo", 0.0, 3),
        ("dr_grpo", 0.1, 2),
        ("bnpo", 0.0, 1),
        ("grpo", 0.0, 6),
    ],
)
def test_loss_and_gradient_of_a_mixed_batch(trainer, rows, tiny_checkpoint, loss_type, beta, micro_batches):
    settings = dict(loss_type=loss_type, beta=beta, num_generations=GROUP, max_completion_length=LIMIT)
    worker = trainer(
        rows,
        scripted=True,
        per_device_train_batch_size=len(rows) * GROUP // micro_batches,
        gradient_accumulation_steps=micro_batches,
        **settings,
    )
    assert worker.dummy_image is not None
    if beta:  # a policy that has moved away from its reference
        generator = torch.Generator().manual_seed(5)
        for parameter in worker.model.parameters():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    policy = copy.deepcopy(worker.model).double()
    seen = []
    remember = type(worker)._generate.__get__(worker)
    worker._generate = lambda prompts: seen.append(remember(prompts)) or seen[-1]

    batch = [row for row in rows for _ in range(GROUP)]
    worker.current_gradient_accumulation_steps = micro_batches
    loss = 0.0
    for _ in range(micro_batches):
        loss += worker.training_step(worker.model, batch, None).item()

    [(prompts, completions, _, texts, *_)] = seen
    rewards = worker.reward_funcs[0](texts)
    reference = copy.deepcopy(worker.ref_model).double() if beta else None
    for model in filter(None, [policy, reference]):  # plain forwards, without TRL's head and our anchor
        for module in (model, model.model):
            module.__dict__.pop("forward", None)
        model.eval()
    expected = _formula(
        loss_type, beta, policy, reference, worker.processing_class, batch, prompts, completions, rewards
    )
    expected.backward()

    assert loss == pytest.approx(expected.item(), abs=2e-6)
    ours = torch.cat([p.grad.flatten().double() for p in worker.model.parameters()])
    theirs = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    tower = torch.cat([p.grad.flatten() for p in policy.model.visual.parameters()])
    assert tower.norm() > 0.02 * theirs.norm()  # the comparison says something about the vision tower
