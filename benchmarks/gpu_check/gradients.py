"""Part `gradients`: how far the shared prefix's gradient in bf16 is from float32's, beside two plain passes' distance.

The same weights, prompts, completions and advantages; the plain passes run all samples at once and one by one. All
three round differently, so none is the truth: float32, one by one, is.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from policy import DEVICE, make_policy, make_processor, messages
from presets import Cell, Preset
from torch import Tensor
from training import release
from trl.trainer.utils import add_fused_lm_head

from omnirl_core.trainer.shared_prefix.packing import Prompt, encode_prompts, pack, packed_log_probs
from omnirl_core.trainer.shared_prefix.runtime import plain_fields

Gradients = dict[str, Tensor]


def gradients(preset: Preset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for cell in preset.gradient_cells:
        yield cell.name, partial(compare, cell, preset)


def compare(cell: Cell, preset: Preset) -> dict[str, Any]:
    """Relative distances ‖a - b‖ / ‖b‖ of gradients, and mean distances of log-probabilities."""
    truth_model = make_policy(preset)
    truth_model.float()  # the weights that bf16 rounded, so that all passes compute the same function
    truth, true_logps = passes(truth_model, cell, preset)["one by one"]()
    del truth_model
    release()
    model = make_policy(preset)
    found: dict[str, Any] = {"status": "measured", "gradient": {}, "log_probs": {}}
    kept: dict[str, Gradients] = {}
    for name, run in passes(model, cell, preset).items():
        kept[name], logps = run()
        found["gradient"][f"{name}, to float32"] = distance(kept[name], truth)
        found["log_probs"][f"{name}, to float32"] = (logps - true_logps).abs().mean().item()
    plain = kept["all at once"]
    found["gradient"]["one by one, to all at once"] = distance(kept["one by one"], plain)
    found["gradient"]["shared prefix, to all at once"] = distance(kept["shared prefix"], plain)
    return found


def distance(found: Gradients, expected: Gradients) -> float:
    """‖found - expected‖ / ‖expected‖ over all parameters."""
    apart = sum((found[name].float() - value.float()).square().sum().item() for name, value in expected.items())
    norm = sum(value.float().square().sum().item() for value in expected.values())
    return (apart / norm) ** 0.5


def passes(model: Any, cell: Cell, preset: Preset) -> dict[str, Callable[[], tuple[Gradients, Tensor]]]:
    """Each gives the gradient of the policy loss and the log-probabilities, (G, C)."""
    add_fused_lm_head(model)
    model.train()
    prompt = encode(model, cell)
    random = torch.Generator().manual_seed(1)
    completions = torch.randint(6, 1000, (preset.group, cell.completion), generator=random).to(DEVICE)
    advantages = torch.randn(preset.group, 1, generator=random).to(DEVICE)
    mask = torch.ones_like(completions)

    def run(rows_at_once: int, logps_of: Callable[[slice], Tensor]) -> tuple[Gradients, Tensor]:
        model.zero_grad()
        parts = []
        for start in range(0, preset.group, rows_at_once):
            rows = slice(start, start + rows_at_once)
            logps = logps_of(rows)
            (-(logps * advantages[rows]).sum() / completions.numel()).backward()
            parts.append(logps.detach().float())
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found, torch.cat(parts)

    def plain(rows: slice) -> Tensor:
        return plain_log_probs(model, prompt, completions[rows])

    def shared(rows: slice) -> Tensor:
        packed = pack([prompt] * preset.group, completions, mask)
        return packed_log_probs(model, model.base_model, packed)[0]

    return {
        "all at once": lambda: run(preset.group, plain),
        "one by one": lambda: run(1, plain),
        "shared prefix": lambda: run(preset.group, shared),
    }


def encode(model: Any, cell: Cell) -> Prompt:
    """The cell's prompt as the model takes it."""
    processor = make_processor()
    conversation, images = messages(cell)
    text = processor.apply_chat_template(conversation)
    batch = processor(text=[text], images=images or None, return_mm_token_type_ids=True)
    ids = [list(map(int, row)) for row in batch.pop("input_ids")]
    if len(ids[0]) != cell.prompt:
        raise ValueError(f"{cell.name}: the prompt has {len(ids[0])} tokens, not {cell.prompt}")
    fields = {
        name: torch.as_tensor(value) if name in ("pixel_values", "image_grid_thw") else value
        for name, value in batch.items()
    }
    return encode_prompts(model.base_model, ids, fields, [len(images)], DEVICE)[0]


def plain_log_probs(model: Any, prompt: Prompt, completions: Tensor) -> Tensor:
    """(rows, C), one sample a completion, as TRL runs it."""
    n_rows, width = completions.shape
    ids = torch.cat([prompt.token_ids.expand(n_rows, -1), completions], 1)
    labels = ids.clone()
    labels[:, :-width] = -100
    fields = plain_fields([prompt] * n_rows, ids.shape[1], width)
    fields.pop("num_images", None)
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True, **fields)
    return output.log_probs[:, -width:]
