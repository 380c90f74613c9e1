"""No vision token is ever sampled, however much the policy wants to."""

from types import SimpleNamespace

import pytest
import torch

from omnirl_core.models import vision_token_ids
from omnirl_core.trainer.multimodal import suppress_vision_tokens


@pytest.mark.parametrize("data", ["mixed", "text"])
def test_a_policy_that_wants_nothing_else(trainer, rows, data):
    worker = trainer(rows if data == "mixed" else rows[:1], temperature=0.7, max_completion_length=16)
    tokenizer = worker.processing_class.tokenizer
    banned = vision_token_ids(worker.model.config, tokenizer)
    head = worker.model.get_output_embeddings()
    wanted = torch.zeros(head.weight.shape[0])
    wanted[banned] = 50.0
    head.register_forward_hook(lambda module, args, logits: logits + wanted)
    inputs = worker._generate_and_score_completions([row for row in worker.train_dataset for _ in range(4)])
    sampled = set(inputs["completion_ids"].flatten().tolist())
    assert len(sampled) > 3
    assert not sampled & set(banned)

    worker.generation_config.suppress_tokens = None
    worker.generation_kwargs["suppress_tokens"] = None
    inputs = worker._generate_and_score_completions([worker.train_dataset[0]] * 2)
    assert set(inputs["completion_ids"].flatten().tolist()) & set(banned)  # the test can see one


def test_own_settings_are_kept(trainer, rows):
    worker = trainer(rows, generation_kwargs={"suppress_tokens": [65], "repetition_penalty": 1.3})
    assert 65 in worker.generation_config.suppress_tokens
    assert worker.model.config.image_token_id in worker.generation_config.suppress_tokens
    assert worker.generation_config.repetition_penalty == 1.3


def test_vllm_gets_a_bias(trainer, rows):
    worker = trainer(rows)
    banned = vision_token_ids(worker.model.config, worker.processing_class.tokenizer)
    worker.use_vllm = True  # vllm itself needs a GPU: this is what would be handed to it
    worker.vllm_generation = SimpleNamespace(generation_kwargs={"logit_bias": {65: -5}, "seed": 3})
    suppress_vision_tokens(worker)
    kwargs = worker.vllm_generation.generation_kwargs
    assert kwargs == {"seed": 3, "logit_bias": {65: -5, **dict.fromkeys(banned, -100)}}
