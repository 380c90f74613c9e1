"""A GRPO step of TRL's GRPOTrainer against ours with a shared prefix: time and memory, phase by phase.

    python benchmarks/grpo_step.py [--repeats 3] [--groups 4 8 16] [--lines FILE] [--write]

One prompt a step, G completions of exactly C tokens, a policy of 11 million parameters with Qwen2.5-VL's architecture,
fp32, one thread, the same rows and the same seed: both trainers sample the same completions, which is checked. The two
alternate in one process; each figure is the median of the repeats. Times are CPU seconds of the process, which one
thread spends in as many seconds of the clock on a quiet machine. Peak memory is that of a fresh process a trainer, over
what it held before the step. Three quarters of an image prompt's tokens are one image's. With a GPU, `--preset 3b`
does the same for a randomly initialised Qwen2.5-VL-3B in bf16, by the clock. `--preset 3b-cpu` gives each trainer one
step at that shape in a process and a time limit of its own, with LoRA on the language model (`3b-cpu-8`: with 8 of its
36 layers).

The whole table takes about an hour of CPU. With `--lines FILE` each cell is kept there as it is measured, and a later
call goes on with the cells that are missing. `--write` renews the section of benchmarks/RESULTS.md and its plot.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from grpo_step_alone import compare_alone, print_step
from grpo_step_cells import ALONE, IMAGES, PRESETS, Cell, reward, rows, write_checkpoint
from peft import LoraConfig
from sections import processor, publish, software
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer

PLOT = Path(__file__).with_name("grpo_step.png")
START, END = "<!-- made by benchmarks/grpo_step.py -->", "<!-- end of benchmarks/grpo_step.py -->"
PHASES = ("rollout", "log-probabilities", "forward+backward", "step")
# --- measuring ---


class StepClock(TrainerCallback):
    """Time of the optimizer step, from the start of its rollout."""

    def __init__(self, clock: "Clock"):
        self.clock = clock

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.clock.start("step")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.stop("step")


class Clock:
    """Seconds of each phase; CPU seconds where the CPU does the work."""

    def __init__(self, device: str):
        self.is_gpu = device == "cuda"
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        if self.is_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def start(self, phase: str) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) - self.now()

    def stop(self, phase: str) -> None:
        self.seconds[phase] += self.now()

    def time(self, owner: Any, method: str, phase: str) -> None:
        plain = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.start(phase)
            try:
                return plain(*args, **kwargs)
            finally:
                self.stop(phase)

        setattr(owner, method, timed)


def make_trainer(which: str, folder: str, cell: Cell, preset: str, seed: int) -> GRPOTrainer:
    sizes, is_alone = PRESETS[preset], preset in ALONE
    settings = dict(
        output_dir=tempfile.mkdtemp(), use_cpu=sizes["device"] == "cpu", bf16=False, gradient_checkpointing=is_alone,
        report_to="none", disable_tqdm=True, save_strategy="no", max_steps=1, seed=seed, learning_rate=1e-6,
        num_generations=cell.group, per_device_train_batch_size=cell.group, max_completion_length=cell.completion,
        generation_kwargs={"min_new_tokens": cell.completion}, model_init_kwargs={"dtype": sizes["dtype"]},
    )  # fmt: skip
    kind, config = (
        (GRPOTrainer, GRPOConfig(**settings))
        if which == "trl"
        else (OmniGRPOTrainer, OmniGRPOConfig(**settings, shared_prefix="on"))
    )
    language_model = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    adapter = LoraConfig(target_modules=language_model, task_type="CAUSAL_LM") if is_alone else None
    trainer = kind(folder, reward, config, rows(cell), peft_config=adapter)
    trainer.remove_callback(PrinterCallback)
    if which != "trl":
        trainer.remove_callback(trainer.jsonl_logger)
    return trainer


def measure(which: str, folder: str, cell: Cell, preset: str, seed: int) -> tuple[dict[str, float], Any]:
    """Seconds of each phase in one step, and the completions."""
    trainer = make_trainer(which, folder, cell, preset, seed)
    clock = Clock(PRESETS[preset]["device"])
    clock.time(trainer, "_generate_single_turn", "rollout")
    clock.time(trainer, "training_step", "training step")
    clock.time(trainer, "_prepare_inputs", "preparation")
    trainer.add_callback(StepClock(clock))
    trainer.train()
    inputs = trainer._buffered_inputs[0]
    clock.start("log-probabilities")
    with torch.no_grad():
        trainer.compute_loss(trainer.model, inputs)
    clock.stop("log-probabilities")
    clock.seconds["forward+backward"] = clock.seconds["training step"] - clock.seconds["preparation"]
    completions = sorted(inputs["completion_ids"].tolist())
    return {phase: clock.seconds[phase] for phase in PHASES}, completions


def compare(folder: str, cell: Cell, preset: str, repeats: int) -> dict[str, Any]:
    """Medians of both trainers, alternating, and how many completions came out the same."""
    seconds: dict[str, list[dict[str, float]]] = {"trl": [], "ours": []}
    equal = total = 0
    for seed in range(repeats):
        order = ("trl", "ours") if seed % 2 == 0 else ("ours", "trl")
        found = {which: measure(which, folder, cell, preset, seed) for which in order}
        for which, (phases, _) in found.items():
            seconds[which].append(phases)
        pairs = zip(found["trl"][1], found["ours"][1], strict=True)
        equal, total = equal + sum(a == b for a, b in pairs), total + cell.group
    medians = {
        which: {phase: statistics.median(run[phase] for run in runs) for phase in PHASES}
        for which, runs in seconds.items()
    }
    memory = {which: peak_memory(which, folder, cell, preset) for which in ("trl", "ours")}
    counts = {"repeats": repeats, "equal": equal, "completions": total}
    return {**asdict(cell), "seconds": medians, "memory_mib": memory, **counts}


def peak_memory(which: str, folder: str, cell: Cell, preset: str) -> float:
    """MiB of one step in a fresh process, over what it held before."""
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        which,
        folder,
        json.dumps(asdict(cell)),
        "--preset",
        preset,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.splitlines()[-1])


def print_peak_memory(which: str, folder: str, cell: Cell, preset: str) -> None:
    trainer = make_trainer(which, folder, cell, preset, seed=0)
    if PRESETS[preset]["device"] == "cuda":
        before = torch.cuda.memory_allocated()
        trainer.train()
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    # Linux keeps the peak of what ran before, across exec too; 5 sets it to what is held now
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    trainer.train()
    print((resident("VmHWM") - before) / 2**10)


def resident(name: str) -> int:
    """KiB that this process holds (VmRSS), or held at most (VmHWM)."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def measured(cells: list[Cell], preset: str, repeats: int, kept: Path | None) -> list[dict[str, Any]]:
    """A line for each cell, and for those that were kept before."""
    known = kept.read_text(encoding="utf-8").splitlines() if kept and kept.exists() else []
    lines = [json.loads(line) for line in known]
    done = {(line["kind"], line["group"], line["prompt"], line["completion"]) for line in lines}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder, preset)
        for which in ("trl", "ours"):
            measure(which, folder, Cell("image", 4, 128, 32), preset, seed=0)  # a warm-up
        for cell in cells:
            if astuple(cell) in done:
                continue
            lines.append(compare(folder, cell, preset, repeats))
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
            if kept:
                kept.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return lines


# --- the report ---


def speed_up(line: dict[str, Any], phase: str) -> float:
    return line["seconds"]["trl"][phase] / line["seconds"]["ours"][phase]


def table(lines: list[dict[str, Any]]) -> list[str]:
    head = [
        "prompt",
        "G",
        "P",
        "C",
        "n",
        "bound",
        *PHASES,
        "TRL's step",
        "our step",
        "peak memory, TRL",
        "ours",
        "ratio",
    ]
    made = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for line in lines:
        cell = Cell(*(line[name] for name in ("kind", "group", "prompt", "completion")))
        theirs, ours = line["memory_mib"]["trl"], line["memory_mib"]["ours"]
        values = [
            cell.kind, cell.group, cell.prompt, cell.completion, line["repeats"], f"{cell.bound:.2f}",
            *(f"{speed_up(line, phase):.2f}x" for phase in PHASES), f"{line['seconds']['trl']['step']:.2f} s",
            f"{line['seconds']['ours']['step']:.2f} s", f"{theirs:.0f} MiB", f"{ours:.0f} MiB", f"{ours / theirs:.2f}",
        ]  # fmt: skip
        made.append(f"| {' | '.join(map(str, values))} |")
    return made


def report(lines: list[dict[str, Any]], preset: str) -> str:
    device = torch.cuda.get_device_name() if PRESETS[preset]["device"] == "cuda" else processor()
    equal, total = (sum(line[name] for line in lines) for name in ("equal", "completions"))
    return "\n".join([
        START,
        "## A GRPO step with a shared prefix",
        "",
        f"`python benchmarks/grpo_step.py --preset {preset}`: TRL's GRPOTrainer over ours with `shared_prefix: on`, "
        "alternating in one process, medians of n steps; CPU time where the CPU computes. One prompt a step, "
        "fp32, random weights. `bound` is G(P+C)/(P+GC), the ratio of tokens in the language model; above it is what "
        "the vision tower and the head save. Memory is the peak over what the process held before the step. "
        f"{equal} of {total} sampled completions were the same in both.",
        "",
        "![Speed-up against the bound](grpo_step.png)",
        "",
        *table(lines),
        "",
        f"{device}, one thread; {software()}.",
        END,
    ])  # fmt: skip


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Speed-up of forward+backward and of the whole step over the bound, one point a cell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharex=True, sharey=True, layout="constrained")
    for axis, phase in zip(axes, ("forward+backward", "step"), strict=True):
        for kind, marker in (("image", "o"), ("text", "s")):
            own = [line for line in lines if line["kind"] == kind]
            bounds = [Cell(kind, line["group"], line["prompt"], line["completion"]).bound for line in own]
            axis.plot(bounds, [speed_up(line, phase) for line in own], marker, label=f"{kind} prompts", alpha=0.8)
        top = max(speed_up(line, name) for line in lines for name in ("forward+backward", "step"))
        axis.plot([1, top], [1, top], "--", color="0.6", label="the bound")
        axis.set(title=phase, xlabel="bound: G(P + C) / (P + GC)", xlim=(0.9, None), ylim=(0.9, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("speed-up over TRL")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 512, 1024], choices=list(IMAGES))
    parser.add_argument("--completions", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--kinds", nargs="+", default=["image", "text"], choices=["image", "text"])
    parser.add_argument("--preset", default="small", choices=list(PRESETS))
    parser.add_argument("--write", action="store_true", help="renew the section in benchmarks/RESULTS.md and its plot")
    parser.add_argument("--limit_s", type=float, default=1800, help="CPU seconds of each trainer, with 3b-cpu")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; of the presets of 3B")
    parser.add_argument("--lines", type=Path, help="a file of cells that are measured, to go on with")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if PRESETS[arguments.preset]["device"] == "cpu":
        torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        which, folder, cell = arguments.memory_of
        if arguments.preset in ALONE:
            trainer = make_trainer(which, folder, Cell(**json.loads(cell)), arguments.preset, seed=0)
            print_step(trainer, arguments.limit_s)
            return 0
        print_peak_memory(which, folder, Cell(**json.loads(cell)), arguments.preset)
        return 0
    wanted = itertools.product(arguments.kinds, arguments.groups, arguments.prompts, arguments.completions)
    if arguments.preset in ALONE:
        cells = [Cell(*sizes) for sizes in wanted]
        compare_alone(Path(__file__), cells, arguments.preset, arguments.limit_s, arguments.write)
        return 0
    lines = measured([Cell(*sizes) for sizes in wanted], arguments.preset, arguments.repeats, arguments.lines)
    lines.sort(key=lambda line: (line["kind"], line["group"], line["prompt"], line["completion"]))
    section = report(lines, arguments.preset)
    publish(section, START, END, arguments.write)
    if arguments.write:
        plot(lines, PLOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
