"""The demo by vLLM on two ranks, as a user starts it, shortened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).parents[3]
SHORT = [
    "--max_steps", "2", "--num_generations", "4", "--per_device_train_batch_size", "16", "--eval_rows", "4",
    "--max_completion_length", "16", "--draw_shapes", '{"task": "mixed", "train": 70, "test": 21, "seed": 0}',
]  # fmt: skip


def test_two_ranks(vllm_folder, tmp_path):
    data = tmp_path / "data"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/ddp.yaml",
        "--num_processes", "2", "--main_process_port", "0", "tests/trainer/vllm_cpu/grpo.py",
        "--config", "recipes/mixed/vllm_cpu.yaml", *SHORT, "--output_dir", str(tmp_path / "run"),
        "--dataset_name", str(data / "train.json"), "--eval_dataset_name", str(data / "test.json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=420)
    assert done.returncode == 0, done.stdout[-4000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    means = [line[name] for line in lines if (name := "sampling/importance_sampling_ratio/mean") in line]
    assert means == pytest.approx([1.0] * 2, abs=1e-3)
