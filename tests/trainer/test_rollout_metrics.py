"""The gap between the rollout's and the trainer's log-probabilities, and the speed of a rollout, as a run logs them."""

import logging
import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from test_vllm import StandIn, without_images
from trl.trainer import grpo_trainer

from omnirl_core.trainer.rollout_metrics import BOUND, MODALITIES, RolloutMetrics


@pytest.fixture
def train_with_vllm(trainer, rows, monkeypatch):
    """Train by a stand-in of vLLM whose log-probabilities are lower by `shift` of a prompt's number of images."""

    def train(shift, data=rows, **settings):
        right = StandIn._logprobs

        def shifted(self, prompt, images, completion):
            by = shift[min(len(images or []), 2)]
            return [[value - by for value in token] for token in right(self, prompt, images, completion)]

        monkeypatch.setattr(StandIn, "_logprobs", shifted)
        monkeypatch.setattr(grpo_trainer, "VLLMGeneration", StandIn)
        settings = {"vllm_mode": "server", "per_device_train_batch_size": 6, "max_steps": 2, **settings}
        worker = trainer(data, use_vllm=True, **settings)
        worker.train()
        return worker.state.log_history

    return train


def values(history, name) -> dict[str, list[float]]:
    """Of each modality, from the lines that have it."""
    lines = [line for line in history if "loss" in line]
    return {
        kind: [v for line in lines if (v := line.get(f"sampling/{kind}/{name}")) is not None] for kind in MODALITIES
    }


def test_the_gap_is_logged_by_modality(train_with_vllm, caplog):
    with caplog.at_level(logging.WARNING):
        history = train_with_vllm((0.0, 0.2, 0.3))
    for name in ("logp_difference/mean", "logp_difference/max"):
        found = values(history, name)
        assert found["text"] == pytest.approx([0.0] * len(found["text"]), abs=1e-4)
        assert found["image"] == pytest.approx([0.2] * len(found["image"]), abs=1e-4)
        assert found["multi-image"] == pytest.approx([0.3] * len(found["multi-image"]), abs=1e-4)
        assert all(found.values()), "two steps meet all six samples"
    ratio = values(history, "importance_ratio/mean")
    assert ratio["image"] == pytest.approx([math.exp(0.2)] * len(ratio["image"]), rel=1e-4)
    # TRL's own numbers, of all samples together, lie between ours
    whole = [line["sampling/sampling_logp_difference/mean"] for line in history if "loss" in line]
    assert all(0.0 <= mean <= 0.3 for mean in whole)
    warnings = [record.getMessage() for record in caplog.records if "differ by" in record.getMessage()]
    assert len(warnings) == 1, "once, not at every step"
    assert f"warned above {BOUND:g}" in warnings[0]
    assert "--logprobs-mode processed_logprobs" in warnings[0]


def test_ranks_are_counted_by_their_tokens():
    """This rank has a text sample of two tokens that differ by .1, the other one of six by .5, and an image's."""
    log, metrics = -torch.ones(1, 2), defaultdict(list)
    other = torch.tensor([[6.0, 3.0, 6 * math.exp(0.5), 0.5], [1.0, 0.2, 1.2, 0.2], [0.0] * 4]).double()
    accelerator = SimpleNamespace(gather=lambda own: torch.cat([own, other[None]]), is_main_process=False)
    trainer = SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        use_vllm=True,
        _metrics={"train": metrics},
    )
    output = {
        "old_per_token_logps": log,
        "sampling_per_token_logps": log - 0.1,
        "completion_mask": torch.ones(1, 2),
    }
    RolloutMetrics(trainer).log_gap(output, [0])
    assert metrics["sampling/text/logp_difference/mean"] == pytest.approx([(2 * 0.1 + 6 * 0.5) / 8])
    assert metrics["sampling/text/logp_difference/max"] == pytest.approx([0.5])
    ratio = (2 * math.exp(0.1) + 6 * math.exp(0.5)) / 8
    assert metrics["sampling/text/importance_ratio/mean"] == pytest.approx([ratio])
    assert metrics["sampling/image/logp_difference/mean"] == pytest.approx([0.2]), "of the other rank alone"
    assert "sampling/multi-image/logp_difference/mean" not in metrics


@pytest.mark.parametrize(
    ("shift", "settings", "reported"),
    [
        ((0.0, 0.0, 0.0), {}, None),
        ((0.5 * BOUND,) * 3, {}, None),
        ((0.5, 0.5, 0.5), {"top_p": 0.9}, "top_p: 0.9 changes vLLM's probabilities"),
        ((0.5, 0.5, 0.5), {"vllm_mode": "colocate"}, "set vllm_model_impl: transformers"),
    ],
    ids=["none", "small", "top_p", "colocate"],
)
def test_the_warning_names_the_setting_to_change(train_with_vllm, rows, caplog, shift, settings, reported):
    with caplog.at_level(logging.WARNING):
        train_with_vllm(shift, without_images(rows), max_steps=1, per_device_train_batch_size=4, **settings)
    assert ("differ by" in caplog.text) == (reported is not None)
    assert reported is None or reported in caplog.text


def test_tokens_per_second_of_transformers_generate(trainer, rows):
    worker = trainer(rows, max_steps=1, scripted=True, eval_data=rows[:2])
    worker.train()
    (line,) = [line for line in worker.state.log_history if "loss" in line]
    n_tokens = sum(map(len, worker._completion_ids))
    assert n_tokens > 0
    assert line["rollout/tokens_per_second"] > n_tokens / line["step_time"]  # a part of the step's time
    assert not [name for name in line if name.startswith("sampling/")]
    assert worker.evaluate()["eval_rollout/tokens_per_second"] > 0
