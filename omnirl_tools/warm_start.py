"""Before GRPO: does the policy earn anything? Where it does not, a warm start by SFT, and where that may end."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from statistics import fmean
from typing import Any

from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import ModelConfig
from trl.trainer.utils import is_async_callable

from omnirl_core.config import DataArguments
from omnirl_core.rewards import Reward
from omnirl_core.trainer import OmniGRPOTrainer
from omnirl_core.trainer.fault_tolerance.reward_guard import GuardedReward
from omnirl_core.types import Line
from omnirl_core.yaml_loader import ConfigError
from omnirl_tools.evaluation.measures import measures
from omnirl_tools.run import answered
from omnirl_tools.sft import OmniSFTConfig

N_PROMPTS = 32
LEAST_OF_TASK = 8
"""Samples of a task from which on its rewards alone are said."""
SFT_STEPS = 40
LOOK_EVERY = 10
"""Steps of a warm start between two looks at its accuracy, on N_LOOKED_AT training samples."""
N_LOOKED_AT = 64
OWN = ("output_dir", "rewards", "eval_dataset_name", "eval_rows", "warm_start_check")
"""Settings of the GRPO run that the warm start leaves out or has its own of."""


def advise_warm_start(
    trainer: OmniGRPOTrainer, rewards: list[Reward], argv: Sequence[str] | None = None
) -> str | None:
    """Answer 32 training prompts, one sampled completion each, and say where none earns a reward above 0.

    Every rank answers its share. The run's random numbers are untouched: each prompt has its own stream.

    Args:
        trainer: before `train()`.
        rewards: of the run; those that read no solution, as form or length, do not count.
        argv: words of the recipe's command line, which the command for the warm start takes over.

    Returns:
        What is printed by the first rank, None where every task earns something.
    """
    dataset: Any = trainer.train_dataset  # a recipe's is no stream
    n = min(N_PROMPTS, len(dataset))
    if n < trainer.accelerator.num_processes:
        return None
    chosen = _spread(dataset, n)
    judging = [one for one in rewards if not is_async_callable(one)]
    with nullcontext() if trainer.watchdog is None else trainer.watchdog.watching():
        trainer._ping("warm start check", ())
        lines = answered(trainer, judging, chosen, trainer.args.temperature, call=partial(_scores, trainer))
    tasks = unrewarded(lines)
    if tasks is None:
        return None
    said = advice(tasks, n, warm_start_command(trainer, list(sys.argv[1:] if argv is None else argv)))
    if trainer.accelerator.is_main_process:
        print(said, file=sys.stderr, flush=True)
    return said


def _scores(trainer: OmniGRPOTrainer, reward: Reward, **columns: Any) -> list[float | None]:
    """None where the reward fails: training will say so, on all ranks, by its own rules; the watchdog looks on."""
    trainer._ping(f"reward '{reward.__name__}'", [{"row_id": one} for one in columns.get("row_id", ())])
    timeout_s, rank = trainer.settings.reward_timeout_s, trainer.accelerator.process_index
    guarded: Any = GuardedReward(reward, reward.__name__, timeout_s, True, rank, []).guarded()
    return guarded(**columns)


def unrewarded(lines: Sequence[Line]) -> list[str] | None:
    """The tasks whose answers all earned nothing, [] where those of all tasks did, None where none is so.

    >>> unrewarded([{"task": "color", "rewards": {"exact": 0.0, "format": 1.0}, "format_rewards": ["format"]}])
    []
    """
    best_of = [(str(line.get("task")), best) for line in lines if (best := _best(line)) is not None]
    if best_of and not any(best > 0 for _, best in best_of):
        return []
    of_task: dict[str, list[float]] = {}
    for task, best in best_of:
        of_task.setdefault(task, []).append(best)
    found = [task for task, values in of_task.items() if len(values) >= LEAST_OF_TASK and max(values) <= 0]
    return found or None


def _best(line: Line) -> float | None:
    """None where no reward judges the answer."""
    judged = {name: value for name, value in line["rewards"].items() if value is not None}
    right = [value for name, value in judged.items() if name not in line.get("format_rewards", ())]
    return max(right or judged.values(), default=None)


def advice(tasks: Sequence[str], n: int, command: str) -> str:
    """The warning; `tasks` as `unrewarded` gives them."""
    which = f"on samples of {', '.join(tasks)}" if tasks else "on any"
    return (
        f"Warning: of {n} training prompts, answered once each, the policy earned no reward above 0 {which}: groups "
        "without a right answer teach nothing. Teach it the form and the kind of answer first:\n\n"
        f"  {command}\n\n"
        "and start this run from it, by the --model_name_or_path that the command prints last. If your prompts ask "
        "for more than <answer>...</answer>, give that as --response_template. warm_start_check: false leaves this "
        "check out"
    )


def warm_start_command(trainer: OmniGRPOTrainer, words: Sequence[str]) -> str:
    """`omnirl sft` over the run's config, data and model, as the command line gives them."""
    known = {field.name for kind in (DataArguments, ModelConfig) for field in dataclasses.fields(kind)}
    kept, keeps = [], False
    for word in words:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            keeps = name in ("config", "use_cpu", "bf16") or (name in known and name not in OWN)
        kept += [word] * keeps
    n = trainer.accelerator.num_processes
    several = ["--accelerate_config", trainer.engine, "--num_processes", str(n)] if n > 1 else []
    settings = {
        "output_dir": f"{str(trainer.args.output_dir).rstrip('/')}_sft",
        "max_steps": SFT_STEPS,
        "per_device_train_batch_size": min(8, trainer.args.per_device_train_batch_size),
        "learning_rate": f"{10 * trainer.args.learning_rate:.2g}",  # imitation bears more than policy gradients
    }
    own = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return " ".join(["omnirl", "sft", *map(shlex.quote, [*several, *kept, *own])])


def _spread(rows: Dataset, n: int) -> Dataset:
    """At most that many of the rows, from the first on at equal distances."""
    n = min(n, len(rows))
    return rows.select([i * len(rows) // n for i in range(n)])


# -- the end of a warm start -------------------------------------------------------------------------------------


class StopAtAccuracy(TrainerCallback):
    """Ends a warm start where the policy earns `least` on training samples, sampled as GRPO samples its groups.

    GRPO learns from groups with right and wrong answers, which half right policies give most of; what imitation has
    taught to the full, it has nothing to add to. Every LOOK_EVERY steps, on each rank its share of the samples.
    """

    def __init__(self, trainer: Trainer, rewards: list[Reward], rows: Dataset, least: float) -> None:
        self.trainer, self.rewards, self.rows, self.least = trainer, rewards, rows, least

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step % LOOK_EVERY or state.global_step >= state.max_steps:
            return
        found = accuracy(answered(self.trainer, self.rewards, self.rows, temperature=1.0))
        if found is None or found < self.least:
            return
        control.should_training_stop = True
        if state.is_world_process_zero:
            n, step = len(self.rows), f"step {state.global_step} of {state.max_steps}"
            print(f"Stopped after {step}: accuracy {found:.2f} on {n} training samples; GRPO goes on from there")


def accuracy(lines: Sequence[Line]) -> float | None:
    """Mean of what the answers earn, rewards for form left out; None where no reward judges any.

    >>> accuracy([{"rewards": {"exact": 1.0, "think_format": 0.0}}, {"rewards": {"exact": 0.0}}])
    0.5
    """
    measure = measures(lines)["accuracy"]
    judged = [value for value in map(measure, lines) if value is not None]
    return fmean(judged) if judged else None


def stop_at_accuracy(
    trainer: Trainer, rewards: list[Reward], rows: Dataset, training: OmniSFTConfig
) -> StopAtAccuracy | None:
    """The callback of the config's `stop_at_accuracy`, None where that is not set; ConfigError where it cannot be."""
    least = training.stop_at_accuracy
    if least is None:
        return None
    if not 0 < least <= 1:
        raise ConfigError([f"stop_at_accuracy: {least:g} is no accuracy; set it above 0, up to 1"])
    if not rewards:
        raise ConfigError(["stop_at_accuracy: needs rewards, which say what is right; set `rewards`, or leave it out"])
    return StopAtAccuracy(trainer, rewards, _spread(rows, N_LOOKED_AT), least)
