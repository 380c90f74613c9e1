"""What vLLM would be asked for, answered by a stand-in; tests/trainer/vllm_cpu has its own engine.

The stand-in samples at random and works out each token's log-probability by itself, from the prompt's tokens and the
images that came with it. TRL's importance ratio between its answer and the trainer's own pass is then 1, unless
prompts, images and completions were paired wrongly on the way.
"""

import logging
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Gemma3Config
from trl.trainer import grpo_trainer

LENGTH = 5


class StandIn:
    """`trl.generation.vllm_generation.VLLMGeneration`, as far as the trainer calls it."""

    def __init__(self, model: Any, processing_class: Any, **settings: Any) -> None:
        self.model, self.processor, self.mode = model, processing_class, settings["mode"]
        self.generation_kwargs = settings["generation_kwargs"] or {}
        self.syncs, self.calls = 0, []
        self.vllm_client = self

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def sync_weights(self) -> None:
        self.syncs += 1

    def generate(self, prompts, images, num_generations, profiler=None):
        images = images or [None] * len(prompts)
        self.calls.append([len(image_files or []) for image_files in images])
        completions = [torch.randint(97, 122, (LENGTH,)).tolist() for _ in prompts]
        pairs = zip(prompts, images, completions, strict=True)
        return prompts, completions, [self._logprobs(*pair) for pair in pairs], None

    @torch.no_grad()
    def _logprobs(self, prompt: list[int], image_files: list[Any] | None, completion: list[int]) -> list[list[float]]:
        ids = torch.tensor([[*prompt, *completion]])
        image_token = self.model.config.image_token_id
        inputs = {"input_ids": ids, "mm_token_type_ids": (ids == image_token).int()}
        if image_files:
            inputs |= self.processor.image_processor(images=image_files, return_tensors="pt")
        logits = self.model(**inputs).logits[0, len(prompt) - 1 : -1]
        found = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])
        return found.tolist()


@pytest.fixture
def with_stand_in(trainer, monkeypatch):
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", StandIn)

    def make(data, **settings):
        worker = trainer(data, use_vllm=True, max_steps=2, per_device_train_batch_size=4, **settings)
        worker.args.vllm_importance_sampling_correction = True
        return worker

    return make


def ratios(worker) -> list[float]:
    names = ("sampling/importance_sampling_ratio/min", "sampling/importance_sampling_ratio/max")
    return [line[name] for line in worker.state.log_history if names[0] in line for name in names]


def without_images(rows) -> Dataset:
    """Rows of which all are known to have no image."""
    names = ("prompt", "solution", "task", "row_id")
    return Dataset.from_list([{name: row[name] for name in names} for row in rows if not row["images"]])


@pytest.mark.parametrize("shared_prefix", ["on", "off"])
@pytest.mark.parametrize(("mode", "kind"), [("server", "mixed"), ("server", "text"), ("colocate", "mixed")])
def test_prompts_and_images_go_together(with_stand_in, rows, mode, kind, shared_prefix):
    data = rows if kind == "mixed" else without_images(rows)
    worker = with_stand_in(data, vllm_mode=mode, shared_prefix=shared_prefix)
    worker.train()
    asked = worker.vllm_generation
    assert asked.mode == mode
    assert asked.syncs == 2, "once a step, after the weights changed"
    drawn = [count for call in asked.calls for count in call]
    assert any(drawn) == (kind == "mixed")
    assert len(drawn) == 2 * 4
    assert len(ratios(worker)) == 4
    assert ratios(worker) == pytest.approx([1.0] * 4, abs=1e-4)
    assert set(asked.generation_kwargs["logit_bias"].values()) == {-100}


def test_a_wrong_pairing_is_seen(with_stand_in, rows, monkeypatch):
    worker = with_stand_in([row for row in rows if row["images"]], vllm_mode="server", shared_prefix="off")
    right = StandIn._logprobs
    monkeypatch.setattr(
        StandIn,
        "_logprobs",
        lambda self, prompt, image_files, completion: right(self, prompt, None, completion),
    )
    worker.train()
    assert max(abs(ratio - 1) for ratio in ratios(worker)) > 1e-3


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_images_of_a_family_that_was_not_verified_are_refused(trainer, rows, tmp_path, mode):
    Gemma3Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"images of gemma3: .* set use_vllm: false"):
        trainer(rows, model=str(tmp_path), use_vllm=True, vllm_mode=mode)


def test_the_pixel_budget_of_the_server_is_reported(with_stand_in, rows, caplog):
    with caplog.at_level(logging.WARNING):
        with_stand_in(rows, vllm_mode="server", max_pixels=4096)
    assert """--mm-processor-kwargs '{"max_pixels": 4096}'""" in caplog.text
