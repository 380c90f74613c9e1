"""What the reward `reference_probability` adds to a GRPO step on mixed samples, text beside an image.

    python benchmarks/reference_probability.py [--repeats 5] [--kept FILE] [--write]

The small policy of grpo_step.py (11 million parameters with Qwen2.5-VL's architecture, fp32, one thread), a prompt with
an image and one without of P tokens each, G completions of C tokens, a shared prefix. Both runs sample the same
completions, whose ends are then made an answer part, so that every one has a thought to judge: the most that the
reward can cost. The reference has 16 tokens. Runs with and without the reward alternate in one process; each
figure is the median of the repeats, in CPU seconds of the process. Must hold: at most 1.3 times the step without it.
`--write` renews the section of benchmarks/RESULTS.md. `--kept` keeps each pair of figures in a file, where a call that
was stopped goes on.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from datasets import Dataset
from gpu_check.word_processor import word_processor
from grpo_step import PRESETS, Clock, StepClock
from grpo_step_cells import Cell, reward, rows, write_checkpoint
from sections import publish, software
from transformers import PrinterCallback

from omnirl_core.rewards import Reward
from omnirl_core.rewards.reference_probability import reference_probability
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer

START = "<!-- made by benchmarks/reference_probability.py -->"
END = "<!-- end of benchmarks/reference_probability.py -->"
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
CELLS = [(8, 128, 32), (8, 128, 128), (8, 512, 32), (8, 512, 128), (16, 512, 128)]
"""G, P, C."""
LIMIT = 1.3
REFERENCE = " ".join(f"w{i}" for i in range(16))


class Answering(OmniGRPOTrainer):
    """Generates as ever, and ends each completion with an answer of two tokens."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        made, log_probs = super()._generate_single_turn(*args, **kwargs)
        opened, *end = self._tokenizer.encode("<think> </think> <answer> w1 w2 </answer>", add_special_tokens=False)
        return [[opened, *ids[1 : -len(end)], *end] for ids in made], log_probs


def both(group: int, prompt: int, completion: int) -> Dataset:
    """An image prompt and a text prompt."""
    kinds = [rows(Cell(kind, group, prompt, completion))[0] for kind in ("image", "text")]

    def draw(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [kinds[place] for place in batch["place"]]
        return {name: [row[name] for row in chosen] for name in chosen[0]} | {"solution": [REFERENCE] * len(chosen)}

    return Dataset.from_dict({"place": [0, 1]}).with_transform(draw)


def measure(folder: str, cell: tuple[int, int, int], with_it: bool, seed: int) -> tuple[float, Any]:
    """Seconds of one step, and its completions."""
    group, _, completion = cell
    rewards: list[Any] = [reward]
    if with_it:
        rewards.append(Reward("reference_probability", reference_probability))
    config = OmniGRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", max_steps=1, seed=seed, learning_rate=1e-6, num_generations=group,
        per_device_train_batch_size=2 * group, max_completion_length=completion, shared_prefix="on",
        generation_kwargs={"min_new_tokens": completion},
    )  # fmt: skip
    trainer = Answering(folder, rewards, config, both(*cell))
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(trainer.jsonl_logger)
    clock = Clock(PRESETS["small"]["device"])
    trainer.add_callback(StepClock(clock))
    trainer.train()
    if with_it:
        found = trainer.state.log_history[-2:]
        assert any("reference_probability/after" in line for line in found) or trainer._rewards[:, 1].isfinite().all()
    return clock.seconds["step"], sorted(trainer._completion_ids)


def compare(folder: str, cell: tuple[int, int, int], repeats: int, kept: Path | None) -> tuple[float, float]:
    """Median seconds of the step without and with the reward; the two alternate."""
    known = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    pairs = known.setdefault(str(cell), [])
    for seed in range(len(pairs), repeats):
        found = {with_it: measure(folder, cell, with_it, seed) for with_it in ((False, True), (True, False))[seed % 2]}
        assert found[True][1] == found[False][1], "other completions were sampled"
        pairs.append((found[False][0], found[True][0]))
        if kept is not None:
            kept.write_text(json.dumps(known))
    without, with_it = zip(*pairs, strict=True)
    return statistics.median(without), statistics.median(with_it)


def report(lines: list[tuple[tuple[int, int, int], float, float]], repeats: int) -> str:
    table = [
        f"| {group} | {prompt} | {completion} | {without:.2f} s | {with_it:.2f} s | {with_it / without:.2f} |"
        for (group, prompt, completion), without, with_it in lines
    ]
    return "\n".join([
        START,
        "## What the policy's own probability costs as a reward",
        "",
        f"`python benchmarks/reference_probability.py --repeats {repeats}`: a step on one text prompt and one with an "
        "image, with and without `reference_probability`, alternating in one process, medians, CPU seconds; every "
        f"completion has an answer part, and the reference 16 tokens. Must hold: at most {LIMIT} times.",
        "",
        "| G | P | C | without | with | ratio |",
        "|---|---|---|---|---|---|",
        *table,
        "",
        f"One thread; {software()}.",
        END,
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cells", type=int, default=len(CELLS), help="only the first so many")
    parser.add_argument("--kept", type=Path, help="a file for the figures, read where it is there")
    parser.add_argument("--write", action="store_true", help="renew the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder, "small")
        processor = word_processor(PRESETS["small"]["words"])
        processor.tokenizer.add_tokens(TAGS)
        processor.save_pretrained(folder)
        measure(folder, (4, 128, 32), True, seed=0)  # a warm-up
        for cell in CELLS[: arguments.cells]:
            lines.append((cell, *compare(folder, cell, arguments.repeats, arguments.kept)))
            print(lines[-1], f"{lines[-1][2] / lines[-1][1]:.3f}", file=sys.stderr, flush=True)
    section = report(lines, arguments.repeats)
    publish(section, START, END, arguments.write)
    return int(any(with_it > LIMIT * without for _, without, with_it in lines))


if __name__ == "__main__":
    sys.exit(main())
