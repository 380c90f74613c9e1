"""Learning curves of the tiny policy with `shared_prefix: on` and `off`, over seeds: they have to agree within noise.

    python benchmarks/shared_prefix_curves.py [--steps 80] [--seeds 3]

Text-only and mixed tasks of the drawn world, 64 completions a step, rewards of recipes/mixed. Writes
docs/pictures/shared_prefix_curves.png and prints the mean reward of the last quarter of every run.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from transformers import PrinterCallback

from omnirl_core.data import load_dataset
from omnirl_core.rewards import load_rewards
from omnirl_core.shapes import tiny_policy, write_dataset
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs" / "pictures" / "shared_prefix_curves.png"
COLORS = {"on": "tab:blue", "off": "tab:orange"}


def rewards_of(task: str, shared: str, seed: int, steps: int) -> list[float]:
    """Mean reward of every step of one run."""
    rewards = load_rewards(ROOT / "recipes" / "mixed" / "rewards.yaml")
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(folder, task, 1000, 0, "train")
        data = load_dataset(str(Path(folder) / "train.json"), templates={"default": "plain"})
        config = OmniGRPOConfig(
            str(Path(folder) / "run"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            disable_tqdm=True, save_strategy="no", logging_steps=1, max_steps=steps, seed=seed, num_generations=8,
            per_device_train_batch_size=64, max_completion_length=48, learning_rate=1e-4, warmup_steps=5,
            lr_scheduler_type="constant_with_warmup", shared_prefix=shared,
            reward_weights=[reward.weight for reward in rewards],
        )  # fmt: skip
        trainer = OmniGRPOTrainer(tiny_policy(), rewards, config, data)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return [line["reward"] for line in trainer.state.log_history if "reward" in line]


def smoothed(values: list[float], window: int = 8) -> list[float]:
    return [statistics.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, task in zip(axes, ("text", "mixed"), strict=True):
        for shared in ("off", "on"):
            runs = [rewards_of(task, shared, seed, arguments.steps) for seed in range(1, arguments.seeds + 1)]
            for run in runs:
                axis.plot(smoothed(run), color=COLORS[shared], alpha=0.3, linewidth=0.8)
            mean = smoothed([statistics.mean(values) for values in zip(*runs, strict=True)])
            axis.plot(
                mean,
                color=COLORS[shared],
                label=f"shared_prefix: {shared}",
                linestyle="-" if shared == "off" else "--",
            )
            last = [statistics.mean(run[-(arguments.steps // 4) :]) for run in runs]
            print(task, shared, "last quarter:", " ".join(f"{value:.4f}" for value in last), flush=True)
        axis.set(title=f"{task} rows", xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("reward, mean of 8 steps")
    axes[0].legend()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
