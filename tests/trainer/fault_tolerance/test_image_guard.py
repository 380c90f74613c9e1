"""Each path on which a batch meets the model is broken on purpose: its pixels are dropped, and the run stops."""

import re

import pytest
import torch
from datasets import Dataset
from PIL import Image
from test_vllm import StandIn
from transformers import AutoTokenizer
from trl import SFTConfig
from trl.trainer import grpo_trainer

from omnirl_core.models import load_policy, load_processor
from omnirl_core.trainer.fault_tolerance import image_guard
from omnirl_core.trainer.fault_tolerance.image_guard import ImageCounter, ImageMismatchError
from omnirl_core.trainer.shared_prefix import packing, rollout
from omnirl_tools.evaluation.generate import generate
from omnirl_tools.sft import CountedImages, SeeingSFTTrainer

PIXELS = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
EIGHT = {
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "max_completion_length": 2,
    "num_iterations": 2,
}


def blind(monkeypatch, owner, name, when=lambda *args, **kwargs: True):
    """Have the method run without the pixels among its keyword arguments."""
    plain = getattr(owner, name)

    def without(*args, **kwargs):
        if when(*args, **kwargs):
            kwargs = {key: value for key, value in kwargs.items() if key not in PIXELS}
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, without)


def break_rollout(monkeypatch, worker):
    blind(monkeypatch, worker.model, "generate")


def break_shared_prefill(monkeypatch, worker):
    blind(monkeypatch, rollout, "_generate")


def break_scoring(monkeypatch, worker):
    blind(monkeypatch, grpo_trainer.GRPOTrainer, "_get_per_token_logps_and_entropies", lambda *args, **kwargs: (
        not torch.is_grad_enabled()
    ))  # fmt: skip


def break_reference(monkeypatch, worker):
    blind(monkeypatch, grpo_trainer.GRPOTrainer, "_get_per_token_logps_and_entropies", lambda self, model, *args, **_: (
        model is self.ref_model
    ))  # fmt: skip


def break_training(monkeypatch, worker):
    blind(monkeypatch, grpo_trainer.GRPOTrainer, "_get_per_token_logps_and_entropies", lambda *args, **kwargs: (
        torch.is_grad_enabled()
    ))  # fmt: skip


def break_packs(monkeypatch, worker):
    plain = packing.Pack.model_inputs

    def drops(pack, window):
        return {k: v for k, v in plain(pack, window).items() if k not in PIXELS}

    monkeypatch.setattr(packing.Pack, "model_inputs", drops)


def break_buffered_prompts(monkeypatch, worker):
    """What the processor made of the images is lost between rollout and training."""
    plain = worker._prepare_inputs

    def prepare(batch):
        inputs = plain(batch)
        for prompt in inputs["shared_prompts"]:
            object.__setattr__(prompt, "images", {})
        return inputs

    worker._prepare_inputs = prepare


PATHS = {
    "rollout": (break_rollout, "off", "rollout"),
    "shared prefill": (break_shared_prefill, "on", "rollout"),
    "scoring": (break_scoring, "off", "log-probabilities"),
    "reference model": (break_reference, "off", "reference's log-probabilities"),
    "training": (break_training, "off", "log-probabilities"),
    "packs": (break_packs, "on", "log-probabilities"),
    "training from lost pixels": (break_buffered_prompts, "on", "log-probabilities"),
}


@pytest.mark.parametrize("path", PATHS)
def test_a_run_stops_before_a_step_without_its_images(trainer, rows, monkeypatch, path):
    broken, shared, where = PATHS[path]
    worker = trainer([rows[2], rows[1]], shared_prefix=shared, beta=0.1, max_steps=1, **EIGHT)
    before = {name: value.detach().clone() for name, value in worker.model.named_parameters()}
    broken(monkeypatch, worker)
    with pytest.raises(ImageMismatchError, match=re.escape(where)) as error:
        worker.train()
    assert "r:2" in str(error.value)
    assert "r:3" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in worker.model.named_parameters())


def test_a_run_stops_where_vllm_is_not_handed_the_images(trainer, rows, monkeypatch):
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", StandIn)
    worker = trainer([rows[1]], use_vllm=True, vllm_mode="server", max_steps=1, per_device_train_batch_size=2)
    plain = worker._tokenize_prompts
    worker._tokenize_prompts = lambda prompts: (plain(prompts)[0], None, plain(prompts)[2])
    with pytest.raises(ImageMismatchError, match=r"rollout by vLLM: .* 0 images where the samples have 2"):
        worker.train()


@pytest.mark.parametrize("shared", ["on", "off"])
def test_evaluation_on_images_sees_them_though_training_is_text(trainer, rows, shared):
    text = Dataset.from_list([{name: rows[0][name] for name in ("prompt", "solution", "row_id")}] * 2)
    seen = []

    def reward(completions, images, **columns):
        seen.extend(images)
        return [0.0] * len(completions)

    worker = trainer(text, reward=reward, shared_prefix=shared, per_device_eval_batch_size=2)
    counter = ImageCounter(worker.model)
    assert not worker._is_mixed
    worker.evaluate(eval_dataset=Dataset.from_list([rows[1]]).repeat(2))
    assert counter.n_images >= 2
    assert [len(images) for images in seen][:2] == [1, 1]


@pytest.mark.parametrize("setting", ["auto", "off"])
def test_a_tokenizer_in_the_processors_place_is_refused(trainer, rows, tiny_checkpoint, setting):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    data = Dataset.from_list(rows[1:2])
    worker = trainer(data, shared_prefix=setting, extra={"processing_class": tokenizer})
    with pytest.raises(ValueError, match=r"samples r:2 have images, and processing_class is a .*[Tt]okenizer"):
        worker.train()


def test_the_error_of_one_rank_is_raised_on_all(trainer, rows, monkeypatch):
    worker = trainer(rows[:2], max_steps=1)
    passes = worker.image_guard
    reported = image_guard.mismatch("rollout", 3, 0, ["r:9"], rank=1)
    monkeypatch.setattr(type(worker.accelerator), "num_processes", 2)
    monkeypatch.setattr(worker.accelerator, "gather", lambda values: torch.cat([values, values + 1]))
    monkeypatch.setattr(image_guard, "gather_object", lambda found: [*found, reported])
    with pytest.raises(ImageMismatchError, match=r"rollout: .* 0 images where the samples have 3 \(rank 1; .*r:9"):
        passes.agree()


@pytest.fixture(scope="module")
def policy(tiny_checkpoint):
    return load_policy(tiny_checkpoint), load_processor(tiny_checkpoint)


def test_evaluation_of_a_checkpoint_stops(policy, rows, monkeypatch):
    model, processor = policy
    assert len(generate(model, processor, [{**rows[1], "image": rows[1]["images"][0], "images": None}, rows[0]],
                        max_new_tokens=1)) == 2  # fmt: skip
    blind(monkeypatch, model, "generate")
    with pytest.raises(ImageMismatchError, match=r"evaluation: .* 0 images where the samples have 3 .*samples r:3\)"):
        generate(model, processor, [rows[0], rows[2]], max_new_tokens=1)


def test_a_tokenizer_answers_no_rows_with_images(policy, rows):
    model, processor = policy
    with pytest.raises(ImageMismatchError, match="r:2"):
        generate(model, processor.tokenizer, rows[1:2], max_new_tokens=1)


def test_the_warm_start_stops(policy, rows, tmp_path, monkeypatch):
    model, processor = policy
    answer = [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}]
    samples = [
        {"prompt": row["prompt"], "completion": answer, "images": [Image.open(p) for p in row["images"]]}
        for row in rows[1:3]
    ]
    config = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_steps=1, disable_tqdm=True,
                       per_device_train_batch_size=2, gradient_checkpointing=False, save_strategy="no",
                       max_length=None)  # fmt: skip
    worker = SeeingSFTTrainer(model, config, train_dataset=Dataset.from_list(samples), processing_class=processor)
    worker.count_images()
    assert worker.data_collator(samples)["n_images"].tolist() == [1, 3]
    assert isinstance(worker.data_collator, CountedImages)
    worker.train()
    blind(monkeypatch, worker.model, "forward")
    with pytest.raises(ImageMismatchError, match="0 images where the samples have 4"):
        worker.train()
