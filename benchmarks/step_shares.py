"""Where the seconds of a step go, and what of them is neither rollout nor the model's own passes.

    python benchmarks/step_shares.py [--runs mixed_demo smollm2 image_11m] [--steps 12] [--repeats 3] [--write]

Runs as a user has them: `mixed_demo` is recipes/mixed/demo.yaml, `smollm2` is recipes/text_only/smollm2_135m.yaml
(which needs what its README prepares), `image_11m` is the policy of benchmarks/grpo_step.py with eight completions of
32 tokens to an image prompt of 512. One thread; CPU seconds of the process, each counted for the innermost part that it
was spent in, from the second step on to the end of the last: fetching samples and logging included, the first step not.

`rollout` is generation, `model` the forward passes, the backward pass and the optimizer, also where one of its
methods is called outside of its forward pass (positions of prompts) and where its graph is freed later. All other parts
are the rest of the step; their sum must be at most 5 %. `--write` renews the section of benchmarks/RESULTS.md.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

import torch
from grpo import build
from grpo_step import make_trainer
from grpo_step_cells import Cell, write_checkpoint
from sections import publish, software
from transformers import TrainerCallback

from omnirl_core.config import parse

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- made by benchmarks/step_shares.py -->", "<!-- end of benchmarks/step_shares.py -->"
ROLLOUT, MODEL = "rollout", "model"
PREPARATION, SCORING, LOSS, LOGGING, OTHER = REST = ("preparation", "scoring", "loss", "logging", "other")
METHODS = {
    "_generate_single_turn": ROLLOUT,
    "_open_samples": PREPARATION,
    "_tokenize_prompts": PREPARATION,
    "get_batch_samples": PREPARATION,
    "_score": SCORING,
    "_compute_loss": LOSS,
    "_get_per_token_logps_and_entropies": LOSS,
    "log": LOGGING,
}
"""Of the trainer: which part the time in them is, less what they call of other parts."""


class Parts(TrainerCallback):
    """CPU seconds by part; each second belongs to the innermost part that is at work."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.steps = 0
        self._open = [OTHER]
        self._since = time.process_time()

    def enter(self, part: str) -> None:
        """Within a rollout, what the model does is the rollout's."""
        self._count()
        self._open.append(ROLLOUT if part == MODEL and ROLLOUT in self._open else part)

    def leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def time(self, owner: Any, method: str, part: str) -> None:
        plain = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(part)
            try:
                return plain(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, method, timed)

    def of_model(self, model: Any) -> None:
        """Its forward passes, and the positions that it would compute in one if it were not given them."""
        model.register_forward_pre_hook(lambda *_: self.enter(MODEL))
        model.register_forward_hook(lambda *_: self.leave())
        if hasattr(model.base_model, "get_rope_index"):
            self.time(model.base_model, "get_rope_index", MODEL)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._count()
        if state.global_step == 1:  # the first step is over, and what follows it
            self.seconds.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps = state.global_step - 1


def free_graphs(accelerator: Any) -> None:
    """Have `backward` free the whole graph of its loss: what is left of it goes where the last reference does."""
    plain = accelerator.backward

    def backward(loss: torch.Tensor, **kwargs: Any) -> None:
        plain(loss, **kwargs)
        loss.detach_()

    accelerator.backward = backward


def measure(trainer: Any) -> dict[str, float]:
    """Seconds a step by part."""
    parts = Parts()
    for name, part in METHODS.items():
        parts.time(trainer, name, part)
    parts.of_model(trainer.model)
    free_graphs(trainer.accelerator)
    parts.time(trainer.accelerator, "backward", MODEL)
    parts.time(trainer.accelerator, "clip_grad_norm_", MODEL)
    parts.time(trainer.model, "zero_grad", MODEL)
    parts.time(trainer.jsonl_logger, "write_completions", LOGGING)
    parts.time(trainer.callback_handler, "call_event", LOGGING)
    plain = trainer.create_optimizer

    def create_optimizer(*args: Any, **kwargs: Any) -> Any:
        optimizer = plain(*args, **kwargs)
        parts.time(optimizer, "step", MODEL)
        return optimizer

    trainer.create_optimizer = create_optimizer
    trainer.add_callback(parts)
    trainer.train()
    return {part: seconds / parts.steps for part, seconds in parts.seconds.items()}


def recipe(config: str) -> Callable[[str, int], Any]:
    def make(folder: str, steps: int) -> Any:
        os.chdir(ROOT)
        changed = ["--max_steps", str(steps), "--output_dir", folder, "--disable_tqdm", "true"]
        return build(*parse(["--config", config, *changed]))[0]

    return make


def image_11m(folder: str, steps: int) -> Any:
    write_checkpoint(folder, "small")
    trainer = make_trainer("ours", folder, Cell("image", 8, 512, 32), "small", seed=0)
    trainer.args.max_steps = steps
    trainer.add_callback(trainer.jsonl_logger)
    return trainer


STEPS = {"mixed_demo": 41, "smollm2": 5, "image_11m": 21}
"""Of each run, the first not counted: more where steps are short."""
RUNS: dict[str, Callable[[str, int], Any]] = {
    "mixed_demo": recipe("recipes/mixed/demo.yaml"),
    "smollm2": recipe("recipes/text_only/smollm2_135m.yaml"),
    "image_11m": image_11m,
}


def section(found: dict[str, dict[str, float]], steps: dict[str, int]) -> str:
    head = ["run", "steps", "a step", ROLLOUT, MODEL, *REST, "the rest in all"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, seconds in found.items():
        whole = sum(seconds.values())
        shares = [f"{seconds.get(part, 0.0) / whole:.1%}" for part in (ROLLOUT, MODEL, *REST)]
        rest = sum(seconds.get(part, 0.0) for part in REST) / whole
        lines.append(f"| `{name}` | {steps[name] - 1} | {whole:.2f} s | {' | '.join(shares)} | **{rest:.1%}** |")
    return "\n".join([
        START,
        "## Where the seconds of a step go",
        "",
        "`python benchmarks/step_shares.py`: steps after a first one, CPU seconds on one thread, each counted for the "
        "innermost part. `model` is forward, backward and optimizer, with the prompts' positions by the model's own "
        "rule and the freeing of the graph; `preparation` "
        "fetches, opens and processes samples; `loss` is what the loss computes besides the model; `logging` is files, "
        "metrics and callbacks. Must hold: the rest at most 5 %.",
        "",
        *lines,
        "",
        "The rest is largest in the demo, whose policy has 1.4 million parameters: its 128 completions a step pass "
        "through the processor of transformers, TRL's padding, decoding and gathering, four rewards and the log, "
        "whatever the size of the model.",
        "",
        f"{software()}.",
        END,
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--steps", type=int, help="of each run, the first not counted; by default more of short steps")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; parts are medians")
    parser.add_argument("--write", action="store_true", help="renew the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    steps = {name: arguments.steps or STEPS[name] for name in arguments.runs}
    for name in arguments.runs:
        measured = []
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as folder:
                measured.append(measure(RUNS[name](folder, steps[name])))
        found[name] = {part: statistics.median(own.get(part, 0.0) for own in measured) for part in measured[0]}
        print(name, {part: round(seconds, 4) for part, seconds in found[name].items()}, file=sys.stderr, flush=True)
    made = section(found, steps)
    publish(made, START, END, arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
