"""Rollouts by vLLM's API server, a process of its own; weights travel over a TCP store in the place of NCCL."""

import pytest
from greedy import by_transformers, by_vllm, largest_gap, ratios
from serving import serving

from omnirl_core.trainer import vllm as vllm_images
from omnirl_core.trainer.fault_tolerance.image_guard import ImageMismatchError
from scripts.ports import free_port

pytestmark = pytest.mark.vllm
LEAST, MOST = 0.9, 1.01
"""Of ratios, which are of whole answers. What vLLM keeps from being sampled takes from them, .03 at most in nine runs;
the server draws other answers each time. Features of earlier weights take all.
"""
REPEATED = dict(max_steps=3, learning_rate=1e-3)
"""Settings under which the vision tower moves so far in a step that features of the step before are wrong."""


@pytest.fixture(scope="module")
def server(vllm_folder, backend, tiny_checkpoint, tmp_path_factory):
    """Port of a server of the tiny checkpoint, at a pixel budget below its own."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(vllm_folder, tiny_checkpoint, log, max_pixels=2048) as port, backend.store_for_nccl():
        yield port


@pytest.fixture
def with_server(server, trainer):
    def make(data, **settings):
        defaults = dict(
            use_vllm=True, vllm_mode="server", vllm_server_host="127.0.0.1", vllm_server_port=server,
            vllm_group_port=free_port(), max_steps=2, per_device_train_batch_size=4, max_pixels=2048,
        )  # fmt: skip
        return trainer(data, **{**defaults, **settings})

    return make


def test_the_server_answers_the_trainers_prompts(with_server, rows):
    worker = with_server(rows, shared_prefix="auto")
    worker.train()
    assert LEAST < min(ratios(worker)) <= max(ratios(worker)) < MOST
    worker.vllm_generation.sync_weights()
    gap = largest_gap(by_vllm(worker, rows), by_transformers(worker, rows))
    assert gap < 1e-4


def test_features_of_earlier_weights_are_seen(with_server, rows, monkeypatch):
    monkeypatch.setattr(vllm_images.ImageVLLM, "reset_encoder_cache", lambda self: None)
    worker = with_server([rows[1], rows[5]], **REPEATED)
    worker.train()
    stale = ratios(worker)
    monkeypatch.undo()
    worker = with_server([rows[1], rows[5]], **REPEATED)
    worker.train()
    assert min(stale) < 0.6
    assert LEAST < min(ratios(worker)) <= max(ratios(worker)) < MOST


def test_another_pixel_budget_is_seen(with_server, rows):
    with pytest.raises(ImageMismatchError, match=r"sample r:\d has \d+ image tokens in the trainer and \d+ in vLLM"):
        with_server(rows, max_pixels=None).train()
