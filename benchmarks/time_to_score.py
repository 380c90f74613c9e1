"""Held-out score over seconds of a whole run: TRL's GRPOTrainer against ours, same hyperparameters, same seeds.

    python benchmarks/time_to_score.py --folder FOLDER [--preset image_text] [--sides ours] [--seeds 0 1 2] [--write]

`image_text` is the recipe's data (questions about one drawn scene) with images that fill 256 tokens, for the tiny
policy after a short warm start on such images; `smollm2` is the SmolLM2 recipe with prompts of about 600 tokens, ten
worked examples before each question, one group a step, few steps, and the policy in bf16, so that TRL's run takes
minutes. Both trainers get the same policy, samples, rewards, seeds and settings of TRL; what OmniGRPOConfig adds is at
its defaults.

A run's seconds are those that its process has computed, on one thread, from the first step on; evaluation on the
held-out samples, every few steps and greedy, is counted on neither side. The mark of a seed is the lower of the two
sides' best scores (means of three evaluations in a row), which both reach; the ratio is ours over TRL's seconds.

Sides alternate, and each run has a process of its own. FOLDER keeps what is made once, and `<preset>.jsonl`, a line a
run, added as it ends: sides and seeds can be run one by one, and a later call goes on with those that are missing.
`--write` renews the curves beside this file, the section of benchmarks/RESULTS.md and the figure, from the runs that
are there.
"""

import argparse
import json
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from held_out_curve import Curve, means, seconds_to
from peft import LoraConfig
from sections import processor, publish, software
from time_to_score_cells import PRESETS, ROOT, data, policy
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from omnirl_core.rewards import load_rewards
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer

SIDES = {"trl": (GRPOTrainer, GRPOConfig), "ours": (OmniGRPOTrainer, OmniGRPOConfig)}
NAMES = {"trl": "TRL's GRPOTrainer", "ours": "OmniGRPOTrainer"}
FIGURES = ROOT / "docs" / "pictures"


def run(name: str, side: str, seed: int, folder: Path) -> dict[str, Any]:
    """The curve of one run."""
    torch.set_num_threads(1)
    preset = PRESETS[name]
    train, held_out = data(name, folder, preset.held_out)
    rewards = load_rewards(ROOT / preset.rewards)
    kind, config = SIDES[side]
    args = config(
        str(folder / f"{name}_{side}{seed}"), seed=seed, max_steps=preset.steps,
        max_completion_length=preset.max_completion_length, reward_weights=[reward.weight for reward in rewards],
        **preset.settings,
    )  # fmt: skip
    curve = Curve(held_out, rewards, preset.max_completion_length, every_steps=preset.every)
    adapter = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM") if preset.lora else None
    trainer = kind(policy(name, folder), rewards, args, train, callbacks=[curve], peft_config=adapter)
    trainer.remove_callback(PrinterCallback)
    curve.trainer = trainer
    trainer.train()
    return {"preset": name, "side": side, "seed": seed, "every": preset.every, "points": curve.points}


def compared(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each seed that both sides have run: the mark, the seconds to it, and their ratio."""
    runs = {(line["side"], line["seed"]): line["points"] for line in lines}
    found = []
    for seed in sorted({seed for _, seed in runs}):
        if ("trl", seed) not in runs or ("ours", seed) not in runs:
            continue
        both = {side: runs[side, seed] for side in SIDES}
        mark = min(max(value for _, value in means(points)) for points in both.values())
        reached = {side: seconds_to(points, mark) for side, points in both.items()}
        whole = {f"{side}_whole": points[-1][0] for side, points in both.items()}
        found.append({"seed": seed, "first": both["ours"][0][1], "mark": mark, **reached, **whole})
    return found


def report(lines: list[dict[str, Any]], name: str) -> str:
    """The table of a preset."""
    rows = [
        f"| {one['seed']} | {one['first']:.3f} | {one['mark']:.3f} | {one['trl']:.0f} s | {one['ours']:.0f} s "
        f"| {one['ours'] / one['trl']:.2f} | {one['ours_whole'] / one['trl_whole']:.2f} |"
        for one in compared(lines)
    ]
    head = ["seed", "score before", "mark", "TRL, to the mark", "ours", "ratio", "ratio of the same steps"]
    said = (
        f"`python benchmarks/time_to_score.py --preset {name}`: whole runs of TRL's GRPOTrainer and ours, CPU seconds "
        "of one thread, held-out evaluations not counted; the mark is the lower of the two best scores of a seed."
    )
    drawn = f"![Held-out score over seconds](../docs/pictures/time_to_score_{name}.png)"
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows]
    return "\n".join([said, "", drawn, "", *table, "", f"{processor()}; {software()}."])


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Score over seconds: a thin line a run, and each side's mean over seeds, step by step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from omnirl_tools.report.figures import BLUE, ORANGE, png, style

    style()
    figure, axes = plt.subplots(figsize=(8.0, 3.4))
    for side, color in (("ours", BLUE), ("trl", ORANGE)):
        runs = [line["points"] for line in lines if line["side"] == side]
        if not runs:
            continue
        for points in runs:
            axes.plot(*zip(*points, strict=True), color=color, alpha=0.32, linewidth=0.8)
        middle = [tuple(map(statistics.mean, zip(*at_step, strict=True))) for at_step in zip(*runs, strict=False)]
        axes.plot(
            *zip(*middle, strict=True), color=color, label=f"{NAMES[side]}, seed{'s' * (len(runs) != 1)}: {len(runs)}"
        )
    axes.set(title="Held-out score over seconds of training", xlabel="seconds of one CPU core", ylabel="score")
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")
    path.write_bytes(png(figure))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of what is made once, and of the runs' curves")
    parser.add_argument("--preset", default="image_text", choices=list(PRESETS))
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help="renew curves, figure and the section of RESULTS.md")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    kept = args.folder / f"{args.preset}.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for seed in args.seeds:
        for side in args.sides if seed % 2 == 0 else args.sides[::-1]:
            if any((line["side"], line["seed"]) == (side, seed) for line in lines):
                continue
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:  # nor the memory of the last
                lines.append(alone.submit(run, args.preset, side, seed, args.folder).result())
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    mark = f"benchmarks/time_to_score.py, {args.preset} -->"
    start, end = f"<!-- made by {mark}", f"<!-- end of {mark}"
    title = f"## Time to the same score as TRL: {args.preset}"
    publish(f"{start}\n{title}\n\n{report(lines, args.preset)}\n{end}", start, end, args.write)
    if args.write:
        Path(__file__).with_name(f"time_to_score_{args.preset}.jsonl").write_text(kept.read_text())
        plot(lines, FIGURES / f"time_to_score_{args.preset}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
