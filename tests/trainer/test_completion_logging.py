"""A run that reports to TensorBoard, wandb and trackio at once, without a network: rewards, completions, images."""

import json
import os
import sqlite3
from pathlib import Path

import pytest
import wandb
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from omnirl_core.trainer.completion_logging import SIDE

STEPS = 2


@pytest.fixture
def reported(tmp_path, trainer, rows, monkeypatch):
    """Folder of what two steps over rows without, with one and with two images have written."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    monkeypatch.chdir(tmp_path)
    worker = trainer(
        rows, num_generations=2, per_device_train_batch_size=8, log_completions=True, max_steps=STEPS, logging_steps=1,
        report_to=["tensorboard", "wandb", "trackio"],
    )  # fmt: skip
    worker.train()
    wandb.finish()
    return worker, tmp_path


def test_every_tracker_has_rewards_completions_and_images(reported):
    worker, folder = reported
    n_images = sum(len(image_files or []) for image_files in worker._logs["images"])
    assert n_images > 0
    assert any(not image_files for image_files in worker._logs["images"])  # rows without one are among them

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/reward")] == [1, 2]
    shown = [tag for tag in events.Tags()["images"] if tag.startswith("completion/")]
    assert len(shown) >= n_images
    assert any(tag.startswith("completion/0/text") for tag in events.Tags()["tensors"])

    run = next((folder / "wandb").glob("offline-run-*/files"))
    tables = [json.loads(path.read_text()) for path in run.glob("media/table/*.json")]
    place = tables[0]["columns"].index("prompt")
    assert all(isinstance(row[place], str) for table in tables for row in table["data"])
    image_files = list(run.glob("media/images/completions/*.png"))
    assert len(image_files) >= n_images
    assert {Image.open(path).size for path in image_files} == {(SIDE, SIDE)}

    trackio = Path(os.environ["TRACKIO_DIR"])
    with sqlite3.connect(next(trackio.glob("*.db"))) as database:
        metrics = [json.loads(text) for (text,) in database.execute("select metrics from metrics")]
    assert any("train/reward" in line for line in metrics)
    assert len(list(trackio.glob("media/**/*.png"))) >= n_images
