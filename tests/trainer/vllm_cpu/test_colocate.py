"""Rollouts by vLLM in the training process: text, one image, several images and any mix of them."""

import pytest
from conftest import letters
from greedy import by_transformers, by_vllm, largest_gap, ratios, shake
from peft import LoraConfig

from omnirl_core.trainer import vllm as vllm_images
from omnirl_core.trainer.fault_tolerance.image_guard import ImageMismatchError

pytestmark = pytest.mark.vllm
NEAR = 1e-2
"""Ratios are of whole answers; what vLLM keeps from being sampled takes some 1e-4 a token from them."""


@pytest.fixture
def with_vllm(shared_engines, trainer):
    def make(data, **settings):
        defaults = dict(use_vllm=True, vllm_mode="colocate", max_steps=2, per_device_train_batch_size=4)
        return trainer(data, **{**defaults, **settings})

    return make


@pytest.mark.parametrize("places", [[0, 3], [1, 5], [2, 4], range(6)], ids=["text", "image", "images", "mixed"])
def test_vllm_answers_the_trainers_prompts(with_vllm, rows, places):
    worker = with_vllm([rows[place] for place in places], shared_prefix="auto")
    worker.train()
    assert ratios(worker) == pytest.approx([1.0] * 6, abs=NEAR)


def test_the_engine_is_transformers(with_vllm, rows):
    worker = with_vllm(rows)
    worker.vllm_generation.sync_weights()
    gap = largest_gap(by_vllm(worker, rows), by_transformers(worker, rows))
    assert gap < 1e-4


def test_expanded_prompts_are_seen(with_vllm, rows, monkeypatch):
    monkeypatch.setattr(vllm_images, "collapsed", lambda ids, token: ids)
    with pytest.raises(ImageMismatchError, match=r"sample r:\d .* tokens in the trainer and \d+ in vLLM"):
        with_vllm([rows[1], rows[5]]).train()


@pytest.mark.parametrize("kind", ["all", "lora", "frozen"])
def test_changed_weights_answer(with_vllm, rows, kind):
    adapter = dict(extra={"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj", "qkv"])})
    worker = with_vllm(rows, **(adapter if kind == "lora" else dict(freeze_vision_tower=kind == "frozen")))
    worker.vllm_generation.sync_weights()
    before = by_vllm(worker, rows)
    shake(worker.model)
    worker.vllm_generation.sync_weights()
    answers = by_vllm(worker, rows)
    gap = largest_gap(answers, by_transformers(worker, rows))
    assert gap < 1e-4
    assert answers != before
    if kind == "lora":
        worker.model.merge_adapter()
        assert largest_gap(answers, by_transformers(worker, rows)) < 1e-4


def test_features_of_earlier_weights_are_seen(with_vllm, rows, monkeypatch):
    monkeypatch.setattr(vllm_images.ImageVLLM, "reset_encoder_cache", lambda self: None)
    worker = with_vllm([rows[1], rows[5]], max_steps=3, learning_rate=1e-3)
    worker.train()
    stale = ratios(worker)
    monkeypatch.undo()
    worker = with_vllm([rows[1], rows[5]], max_steps=3, learning_rate=1e-3)
    worker.train()
    assert max(abs(ratio - 1) for ratio in stale) > 0.1
    assert ratios(worker) == pytest.approx([1.0] * 9, abs=NEAR)


def some(completions, row_id, **columns):
    """Signal for two samples of six."""
    return [value if name in ("r:5", "r:6") else 0.5 for name, value in zip(row_id, letters(completions), strict=True)]


def logged(worker, name):
    return [
        line[f"dynamic_sampling/{name}"] for line in worker.state.log_history if f"dynamic_sampling/{name}" in line
    ]


def test_groups_without_signal_are_replaced(with_vllm, rows):
    """The engine's log-probabilities follow the completions that are kept."""
    worker = with_vllm(rows, reward=some, dynamic_sampling="resample", max_resample_rounds=8)
    worker.train()
    assert sum(logged(worker, "rounds")) > 0
    assert all(kept > 0 for kept in logged(worker, "kept_groups"))
    skipped = [
        line["completions/skipped_ratio"] for line in worker.state.log_history if "completions/skipped_ratio" in line
    ]
    assert skipped == [1 - kept / 2 for kept in logged(worker, "kept_groups")]
    assert ratios(worker) == pytest.approx([1.0] * 6, abs=NEAR)


def test_prompts_without_signal_are_replaced_before_the_engine_answers(with_vllm, rows):
    worker = with_vllm(rows, reward=some, dynamic_sampling="predict", max_steps=12)
    worker.train()
    replaced = logged(worker, "replaced_share")
    assert replaced[:3] == [0.0] * 3  # the first epoch, in which nothing is known
    assert sum(replaced[3:]) > 0
    assert sum(logged(worker, "kept_groups")[3:]) / 9 > 2 / 3  # what the draw alone would keep of two
    assert ratios(worker) == pytest.approx([1.0] * 36, abs=NEAR)


def test_a_pixel_budget_reaches_vllm(with_vllm, rows, monkeypatch):
    worker = with_vllm(rows, max_pixels=2048)
    worker.train()
    assert ratios(worker) == pytest.approx([1.0] * 6, abs=NEAR)
    monkeypatch.setattr(vllm_images, "pixel_budget", lambda processor: {})
    with pytest.raises(ImageMismatchError, match="min_pixels and max_pixels"):
        with_vllm(rows, max_pixels=2048).train()


def test_a_run_goes_on_twice(with_vllm, rows):
    for steps in (1, 2, 3):
        worker = with_vllm(rows, max_steps=steps, save_strategy="steps", save_steps=1)
        worker.train(resume_from_checkpoint=steps > 1)
        assert worker.state.global_step == steps
        assert ratios(worker)[-3:] == pytest.approx([1.0] * 3, abs=NEAR)
    assert largest_gap(by_vllm_synced(worker, rows), by_transformers(worker, rows)) < 1e-4


def by_vllm_synced(worker, rows):
    worker.vllm_generation.sync_weights()
    return by_vllm(worker, rows)
