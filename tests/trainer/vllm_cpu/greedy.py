"""The engine held to transformers: the same prompts, the same greedy answers, the same log-probabilities."""

from collections.abc import Sequence
from typing import Any

import torch
from trl.data_utils import prepare_multimodal_messages

from omnirl_core.models import vision_token_ids
from omnirl_core.trainer.multimodal import mixed_samples

LENGTH = 8
Answers = list[tuple[list[int], list[float]]]
"""Tokens and log-probabilities of each sample's answer."""


def prompts_of(rows: Sequence[Any]) -> list[Any]:
    """As TRL hands them to the processor, images inside."""
    return [prepare_multimodal_messages(s["prompt"], images=s["images"]) for s in mixed_samples(rows)]


def by_vllm(worker: Any, rows: Sequence[Any]) -> Answers:
    """Of the engine as it stands; raises where its prompts are not the trainer's."""
    generation = worker.vllm_generation
    kept = generation.temperature, generation.max_completion_length
    generation.temperature, generation.max_completion_length = 0.0, LENGTH
    try:
        prompt_ids, images, _ = worker._tokenize_prompts(prompts_of(rows))
        _, tokens, log_probs, _ = generation.generate(prompt_ids, images, 1)
    finally:
        generation.temperature, generation.max_completion_length = kept
    return [(list(ids), [value[0] for value in values]) for ids, values in zip(tokens, log_probs, strict=True)]


@torch.no_grad()
def by_transformers(worker: Any, rows: Sequence[Any]) -> Answers:
    found = []
    model = worker.model.eval()
    for prompt in prompts_of(rows):
        inputs = worker.processing_class.apply_chat_template(
            [prompt], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        output = model.generate(
            **inputs, do_sample=False, max_new_tokens=LENGTH, return_dict_in_generate=True, output_scores=True,
            suppress_tokens=vision_token_ids(model.config, worker._tokenizer),
        )  # fmt: skip
        tokens = output.sequences[0, inputs["input_ids"].shape[1] :]
        scores = torch.stack(output.scores)[:, 0].log_softmax(-1)  # (C, V)
        found.append((tokens.tolist(), scores.gather(1, tokens[:, None])[:, 0].tolist()))
    model.train()
    return found


def largest_gap(one: Answers, other: Answers) -> float:
    """Of the log-probabilities of the same tokens."""
    assert [tokens for tokens, _ in one] == [tokens for tokens, _ in other]
    return max(abs(a - b) for (_, x), (_, y) in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def ratios(worker: Any) -> list[float]:
    """TRL's importance ratios of a run: smallest, mean and largest of each step."""
    names = [f"sampling/importance_sampling_ratio/{which}" for which in ("min", "mean", "max")]
    return [line[name] for line in worker.state.log_history if names[0] in line for name in names]


@torch.no_grad()
def shake(model: torch.nn.Module, scale: float = 0.05) -> None:
    """Change whatever is trained."""
    random = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=random) * scale)
