"""The parts of recipes/grpo.py and recipes/sft.py that are not the run itself: resume, held-out answers, run.json."""

import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig
from trl.models import unwrap_model_for_generation

from omnirl_core.config import DataArguments
from omnirl_core.data import DataError
from omnirl_core.data.dataset import routing
from omnirl_core.launch import silence_upstream_noise
from omnirl_core.rewards import Reward
from omnirl_core.rewards.load import Sample, coverage_error, used_rewards
from omnirl_core.rewards.registry import FileFunction
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.trainer.callbacks import GracefulShutdown
from omnirl_core.trainer.preparation import reward_weights
from omnirl_core.types import Line
from omnirl_tools.evaluation.compare import Change, table
from omnirl_tools.evaluation.lines import read_lines, write_lines
from omnirl_tools.evaluation.score import evaluate, guarded_scores
from omnirl_tools.report import plot_curves, write_completions
from omnirl_tools.resume import resume_path
from omnirl_tools.samples import read_rows
from omnirl_tools.sft import OmniSFTConfig

RESUMABLE = 75
"""Exit code of a run that a signal stopped and that can be resumed: EX_TEMPFAIL of sysexits.h, "try again later".

Not 143 or 130: those are what a shell reports of a process that the signal killed, with nothing saved.
"""
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")


def start_quietly(training: TrainingArguments) -> None:
    """Seed; no bar for every file that is read or written; no remark of DeepSpeed that the CPU asked for is a CPU."""
    set_seed(training.seed)
    disable_progress_bar()
    silence_upstream_noise(use_cpu=training.use_cpu)


def join_deepspeed(training: TrainingArguments) -> None:
    """With `--deepspeed` on a CPU, transformers 5.23 starts the ranks without DeepSpeed, whose ZeRO-3 then sees one."""
    if training.deepspeed and training.use_cpu and training.world_size > 1:
        import_module("deepspeed.comm").init_distributed("gloo", auto_mpi_discovery=False, verbose=False)


def checkpoint_to_resume(training: OmniGRPOConfig | OmniSFTConfig) -> str | None:
    """The checkpoint that the run goes on from, as the first rank sees the folder; looked up before a model loads."""
    found: list[Any] = [None, None]
    if training.process_index == 0:
        try:
            found[0] = resume_path(training.resume_from_checkpoint, str(training.output_dir))
        except ValueError as error:
            found[1] = error
    checkpoint, fault = broadcast_object_list(found)
    if fault is not None:
        raise fault
    if training.resume_from_checkpoint is not None and training.process_index == 0:
        print(f"Resuming from {checkpoint}" if checkpoint else "No checkpoint to resume from: starting anew")
    return checkpoint


def leave(trainer: OmniGRPOTrainer, shutdown: GracefulShutdown) -> None:
    """End a run that a signal stopped: the checkpoint is written, what comes after training is left to the resume."""
    if trainer.accelerator.is_main_process and shutdown.signal is not None:
        print(
            f"\nStopped by {shutdown.signal.name} after step {trainer.state.global_step} of "
            f"{trainer.state.max_steps}; checkpoint-{trainer.state.global_step} is written. Go on with "
            "--resume_from_checkpoint auto",
            file=sys.stderr,
            flush=True,
        )
    trainer.accelerator.wait_for_everyone()
    raise SystemExit(RESUMABLE)


def held_out_samples(data: DataArguments, training: OmniGRPOConfig | OmniSFTConfig) -> Dataset | None:
    """The first `eval_rows` of the held-out samples, None where the config names none."""
    if not data.eval_dataset_name:
        return None
    report = Path(str(training.output_dir)) / "bad_eval_rows.txt"
    rows = read_rows(data, data.eval_dataset_name, training.seed, report)
    return rows if data.eval_rows is None else rows.select(range(min(data.eval_rows, len(rows))))


def fitted(rewards: list[Reward], dataset: Dataset, held_out: Dataset | None) -> list[Reward]:
    """The rewards that some sample needs; DataError where samples, to train on or held out, have none."""
    samples = [Sample(*row) for row in routing(dataset)]
    tested = [] if held_out is None else [Sample(*row) for row in routing(held_out)]
    for name, some in (("dataset_name", samples), ("eval_dataset_name", tested)):
        if error := coverage_error(some, rewards):
            raise DataError(f"{name}: {error}")
    return used_rewards(rewards, [one.task for one in (*samples, *tested)])


def reweighted(rewards: Sequence[Reward], given: Sequence[float] | None) -> list[Reward]:
    """The rewards with the weights that `reward_weights` gives, so that held-out scores use them too."""
    if given is None:
        return list(rewards)
    if len(given) != len(rewards):
        raise DataError(f"reward_weights: {len(given)} weights for {len(rewards)} rewards; give one each, or none")
    reward_weights(rewards, given)
    return [dataclasses.replace(one, weight=float(weight)) for one, weight in zip(rewards, given, strict=True)]


def grade(trainer: Trainer, rewards: list[Reward], rows: Dataset | None, name: str) -> list[Line]:
    """Answer the held-out rows greedily, each process its share; write `<name>.jsonl`; return every line everywhere."""
    if rows is None:
        return []
    lines = answered(trainer, rewards, rows, progress=f"{name} training")
    if trainer.accelerator.is_main_process:
        write_lines(Path(str(trainer.args.output_dir)) / f"{name}.jsonl", lines)
    return lines


def answered(
    trainer: Trainer,
    rewards: list[Reward],
    rows: Dataset,
    temperature: float = 0.0,
    progress: str | None = None,
    call: Callable[..., list[float | None]] | None = None,
) -> list[Line]:
    """The rows with answers and rewards, each process its share; every line everywhere."""
    accelerator = trainer.accelerator
    args: Any = trainer.args
    guarded = partial(
        guarded_scores,
        timeout_s=args.reward_timeout_s,
        on_error=args.on_reward_error,
        rank=accelerator.process_index,
    )
    share = rows.select(range(accelerator.process_index, len(rows), accelerator.num_processes))
    with unwrap_model_for_generation(trainer.model_wrapped, accelerator) as model:
        lines = evaluate(
            model,
            trainer.processing_class,
            share,
            rewards,
            max_new_tokens=args.max_completion_length,
            batch_size=args.per_device_eval_batch_size,
            temperature=temperature,
            seed=args.seed,
            progress=progress if accelerator.is_main_process else None,
            call=call or guarded,
        )
    return gather_object(lines)


def graded_before(folder: Path) -> list[Line]:
    """The held-out lines that the run wrote before it was stopped, as the first rank reads them, everywhere."""
    lines = [read_lines(folder / "before.jsonl") if PartialState().is_main_process else []]
    return broadcast_object_list(lines)[0]


def own_code(rewards: Iterable[Reward]) -> dict[str, str]:
    """Each reward function of the user's own files, `path:function`, and the file's SHA-256."""
    functions = [reward.scorer for reward in rewards if isinstance(reward.scorer, FileFunction)]
    return {
        f"{function.path}:{function.name}": sha256(function.path.read_bytes()).hexdigest() for function in functions
    }


def write_run_file(
    folder: Path,
    trainer: OmniGRPOTrainer,
    rewards: list[Reward],
    *configs: DataArguments | TrainingArguments | ModelConfig,
) -> None:
    """run.json: every setting that is not a default, processes and engine, the user's own code, the versions."""
    reward_files = own_code(rewards)
    for function, digest in reward_files.items():
        print(f"Runs your own code: {function} (SHA-256 {digest[:12]}), named in the rewards")
    config = {}
    for part in configs:
        for item in dataclasses.fields(part):
            value = getattr(part, item.name)
            if value != item.default and item.init and not item.name.startswith("_"):
                config[item.name] = value
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    facts = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config,
        "reward_files": reward_files,
        "processes": trainer.accelerator.num_processes,
        "engine": trainer.engine,
        "versions": versions,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")


def show(folder: Path, changes: list[Change], curves: bool = True) -> None:
    """Print before -> after, draw the figures, and name every file, last."""
    if changes:
        print(f"\nHeld-out rows, greedy, before and after training\n\n{table(changes)}")
    made = [*([plot_curves(folder)] if curves else []), write_completions(folder)]
    print("\nLook at")
    for path in made:
        print(f"  {path}")
