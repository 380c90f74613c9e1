"""A run says nothing that its user cannot act on."""

import os
import subprocess
import sys

import pytest

RUN = """
import sys, warnings
warnings.simplefilter("default")
from datasets import Dataset
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
checkpoint, image, folder = sys.argv[1:]
blocks = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
rows = [{"prompt": [{"role": "user", "content": blocks}], "images": [image]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "images": []}]
config = OmniGRPOConfig(folder, use_cpu=True, bf16=False, report_to="none", max_steps=2, num_generations=2,
    per_device_train_batch_size=4, max_completion_length=8, beta=0.1, save_strategy="steps", save_steps=1,
    eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4, logging_steps=1)
def reward(completions, **columns): return [float(len(c[0]["content"])) for c in completions]
OmniGRPOTrainer(checkpoint, reward, config, Dataset.from_list(rows), Dataset.from_list(rows)).train()
print("done")
"""


@pytest.mark.slow
def test_a_run_prints_no_warning(tiny_checkpoint, image_files, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN, tiny_checkpoint, image_files[0], str(tmp_path / "run")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "arning" in line.lower()]
    assert lines == []
    assert "kernels-community" not in done.stdout + done.stderr, "told by bitsandbytes at its import"
