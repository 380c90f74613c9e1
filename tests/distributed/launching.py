"""Real launches of a recipe on the CPU: the command of the documents, with what the CPU needs besides."""

import os
import signal
import subprocess
from pathlib import Path

from forked import environment, python

ROOT = Path(__file__).parents[2]
SHORT = [
    "--num_generations", "4", "--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "1",
    "--eval_rows", "3", "--logging_steps", "1", "--disable_tqdm", "true",
    "--draw_shapes", '{"task": "mixed", "train": 70, "test": 21, "seed": 0}',
]  # fmt: skip


def recipe(folder: Path, *more: str) -> list[str]:
    """The recipe's part of the command line; the run goes to `folder`/run."""
    data = folder / "data"
    return [
        "--config", "recipes/mixed/demo.yaml", *SHORT, "--output_dir", str(folder / "run"),
        "--dataset_name", str(data / "train.json"), "--eval_dataset_name", str(data / "test.json"), *more,
    ]  # fmt: skip


def launch(config: str, processes: int, *arguments: str, timeout_s: float = 600) -> str:
    """`accelerate launch --config_file accelerate_configs/<config>.yaml` of the recipe, in forks; what it printed."""
    command = [
        python(), "-m", "accelerate.commands.launch", "--config_file", f"accelerate_configs/{config}.yaml",
        "--num_processes", str(processes), "--main_process_port", "0", "recipes/grpo.py", *arguments,
    ]  # fmt: skip
    code, printed = finish(start(command), timeout_s)
    assert code == 0, printed[-12000:]
    return printed


def start(
    command: list[str], folder: Path = ROOT, given: dict[str, str] | None = None, **more: str
) -> subprocess.Popen[str]:
    """In a process group of its own, so that a test can end all of it; `given` is all of its environment."""
    return subprocess.Popen(
        command, cwd=folder, env=environment(**more) if given is None else given,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout_s: float) -> tuple[int, str]:
    """Exit code and output; the watchdog ends every process of the launch."""
    try:
        printed, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        raise AssertionError(f"no end after {timeout_s} s:\n{printed[-4000:]}") from None
    return process.returncode, printed
