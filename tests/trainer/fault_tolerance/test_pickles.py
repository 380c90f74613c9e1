"""No code of a checkpoint runs: weights come from safetensors, the rest through torch's restricted unpickler."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from omnirl_core.trainer.fault_tolerance.checkpoint_storage import has_full_weights, pickled_weights


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def checkpoint(trainer, rows, tmp_path) -> Path:
    """Within a generation batch, so that it is kept too."""
    worker = trainer(rows, save_strategy="steps", save_steps=1, num_iterations=2, output_dir=str(tmp_path / "run"))
    worker.train()
    return tmp_path / "run" / "checkpoint-1"


def test_a_bomb_is_one(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()


def test_what_a_resume_loads_runs_nothing(checkpoint, trainer, rows, tmp_path):
    files = {path.name for path in checkpoint.iterdir()}
    assert "model.safetensors" in files
    assert not [name for name in files if name.startswith("pytorch_model")]
    pickles = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "generation_batch_0.pt"}
    assert pickles <= files
    for name in sorted(pickles):
        armed, mark = tmp_path / f"armed_{name}", tmp_path / f"mark_{name}"
        shutil.copytree(checkpoint, armed)
        torch.save({"state": Bomb(mark)}, armed / name)
        worker = trainer(rows, max_steps=2, num_iterations=2, output_dir=str(tmp_path / "resumed"))
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            worker.train(resume_from_checkpoint=str(armed))
        assert not mark.exists(), name


def test_pickled_weights_are_refused(checkpoint, trainer, rows, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    torch.save({"a": Bomb(tmp_path / "mark")}, checkpoint / "pytorch_model.bin")
    assert not has_full_weights(checkpoint)
    worker = trainer(rows, max_steps=2, output_dir=str(tmp_path / "resumed"))
    with pytest.raises(ValueError, match=r"weights in pytorch_model.bin, a pickle, which can run code"):
        worker.train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["pytorch_model.bin"], True),
        (["pytorch_model.bin.index.json"], True),
        (["adapter_model.bin", "config.json"], True),
        (["pytorch_model.bin", "model.safetensors"], False),
        (["adapter_model.safetensors", "adapter_model.bin"], False),
        (["config.json"], False),
    ],
)
def test_a_folder_is_judged_by_what_it_has_besides(tmp_path, names, refused):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert (pickled_weights(tmp_path) is not None) == refused
