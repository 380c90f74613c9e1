"""Seconds to the same held-out accuracy where most groups have no signal, by what is done about them.

    python benchmarks/dynamic_sampling.py [--kinds full 'predict half'] [--seconds 90] [--seeds 3] [--lines FILE]

`full` trains on every completion (`skip_zero_advantages: false`), `skip` leaves those without signal out of the forward
and backward pass; `predict` and `resample` do so too and set `dynamic_sampling`. The last two kinds take half as many
prompts a step.

Questions about drawn scenes (colour, shape, count); a share of the training samples has an answer that no completion
reaches, as wrong annotations have. The tiny policy is rewarded for the exact answer. All train for the same seconds of
the processor, on one thread, one after the other for each seed; every few seconds they answer held-out samples, which
is not counted. There are so few samples, and the learning rate is so low, that `full` passes over them 11 to 15 times,
as verl's example on GSM8K does, and learns through half of that time. Marks are half, four fifths and all of what
`full` gains, by means of three accuracies in a row; the seconds are those of the first such mean at or above a mark.
With `--lines FILE` each run's curve is kept there as it ends, and a later call goes on with the runs that are missing.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from held_out_curve import Curve, means, seconds_to
from transformers import PrinterCallback

from omnirl_core.data import load_dataset
from omnirl_core.rewards import load_rewards
from omnirl_core.shapes import tiny_policy, write_dataset
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer

GAINS = (0.5, 0.8, 1.0)
"""Marks: so much of what `full` gains at most."""
MARKS = ", ".join(f"{gain:.0%}" for gain in GAINS) + " of the gain"
TASKS = ("color", "shape", "count")
KINDS = {
    "full": {"skip_zero_advantages": False},
    "skip": {},
    "predict": {"dynamic_sampling": "predict"},
    "resample": {"dynamic_sampling": "resample"},
    "skip half": {"per_device_train_batch_size": 32},
    "predict half": {"dynamic_sampling": "predict", "per_device_train_batch_size": 32},
}


def samples(folder: Path, n: int, hopeless: float) -> tuple[Any, Any]:
    """Samples to train on, of which a share cannot be solved, and held-out samples, of which all can."""
    train, test = write_dataset(folder, TASKS, n, 0, "train"), write_dataset(folder, TASKS, 210, 0, "test")
    rows, draw = json.loads(train.read_text()), random.Random(0)
    for row in draw.sample(rows, round(hopeless * n)):
        row["solution"] = "a word that nobody says"
    train.write_text(json.dumps(rows))
    loaded = [load_dataset(str(path), templates={"default": "plain"}) for path in (train, test)]
    return loaded[0], loaded[1]


def run(kind: str, seed: int, args: argparse.Namespace, folder: Path, data: tuple[Any, Any]) -> dict[str, Any]:
    """The curve of one run, and what its log says of groups without signal."""
    (folder / "rewards.yaml").write_text("rewards:\n  - {name: exact, weight: 1.0}\n")
    rewards = load_rewards(folder / "rewards.yaml")
    config = OmniGRPOConfig(
        str(folder / f"{kind}{seed}"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", logging_steps=1, max_steps=100_000, seed=seed, num_generations=8,
        max_completion_length=48, learning_rate=args.learning_rate, warmup_steps=5,
        lr_scheduler_type="constant_with_warmup", **{"per_device_train_batch_size": 64, **KINDS[kind]},
    )  # fmt: skip
    every_s = args.seconds / args.points
    curve = Curve(list(data[1]), rewards, max_new_tokens=48, every_s=every_s, seconds=args.seconds)
    trainer = OmniGRPOTrainer(tiny_policy(), rewards, config, data[0], callbacks=[curve])
    curve.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "frac_reward_zero_std" in line]
    name = "dynamic_sampling/rejected_share" if "dynamic_sampling" in KINDS[kind] else "frac_reward_zero_std"
    return {
        "kind": kind,
        "seed": seed,
        "points": curve.points,
        "steps": len(lines),
        "without_signal": statistics.mean(line[name] for line in lines),
        "rounds": statistics.mean(line.get("dynamic_sampling/rounds", 0.0) for line in lines),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90, help="of training, for each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--points", type=int, default=15, help="accuracies on held-out samples, for each run")
    parser.add_argument("--hopeless", type=float, default=0.65, help="share of the samples that cannot be solved")
    parser.add_argument("--learning_rate", type=float, default=2.5e-5)
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--lines", type=Path, help="a file of runs that are measured, to go on with")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    known = args.lines.read_text().splitlines() if args.lines and args.lines.exists() else []
    found = {(one["kind"], one["seed"]): one for one in map(json.loads, known)}
    with tempfile.TemporaryDirectory() as name:
        data = samples(Path(name), args.samples, args.hopeless)
        for seed in range(args.seeds):
            order = args.kinds if seed % 2 == 0 else args.kinds[::-1]
            for kind in (kind for kind in order if (kind, seed) not in found):
                one = found[kind, seed] = run(kind, seed, args, Path(name), data)
                if args.lines:
                    with args.lines.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(one) + "\n")
    report(found, args.kinds, args.seeds)
    return 0


def report(found: dict[tuple[str, int], dict[str, Any]], kinds: list[str], seeds: int) -> None:
    """A line a run, and each kind's seconds over those of `full`."""
    ratios: dict[tuple[str, float], list[float]] = {}
    print("seed kind         steps  s/step  no signal  rounds  accuracy: first   best  seconds to " + MARKS)
    for seed in range(seeds):
        curves = {kind: found[kind, seed]["points"] for kind in kinds}
        first, best = curves["full"][0][1], max(value for _, value in means(curves["full"]))
        for kind, curve in curves.items():
            one = found[kind, seed]
            marks = [first + gain * (best - first) for gain in GAINS]
            reached, top = [seconds_to(curve, mark) for mark in marks], max(value for _, value in means(curve))
            for gain, mark, own in zip(GAINS, marks, reached, strict=True):
                ratios.setdefault((kind, gain), []).append(own / seconds_to(curves["full"], mark))
            print(
                f"{seed:<4} {kind:12} {one['steps']:5} {one['points'][-1][0] / one['steps']:7.2f} "
                f"{one['without_signal']:10.0%} {one['rounds']:7.2f} {one['points'][0][1]:16.3f} "
                f"{top:6.3f}  " + "".join(f"{own:6.0f}" for own in reached), flush=True,
            )  # fmt: skip
    for (kind, gain), values in ratios.items():
        if kind != "full":
            text = ", ".join(f"{ratio:.2f}" for ratio in values)
            print(f"{kind} over full, {gain:.0%} of the gain: {text}; median {statistics.median(values):.2f}")


if __name__ == "__main__":
    sys.exit(main())
