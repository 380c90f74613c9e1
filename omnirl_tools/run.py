"""One GRPO run, from a YAML to a report: parse, seed, train, save, show. The only place with side effects.

`recipes/grpo.py` calls `main`. Everything that the run writes lies in `output_dir`: run.json (config and versions),
metrics.jsonl and completions.jsonl (while it trains), before.jsonl and after.jsonl (held-out rows, greedy),
curves.png and completions.html, result.json (what came out, minutes, memory), and the model.
"""

import dataclasses
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from datasets import Dataset
from torch.distributed.elastic.multiprocessing.errors import record
from transformers import Trainer, TrainingArguments
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, get_peft_config
from trl.models import unwrap_model_for_generation

from omnirl_core.config.arguments import DataArguments, parse
from omnirl_core.config.default_rewards import default_rewards
from omnirl_core.config.model_settings import model_settings, policy_path, quantization_settings
from omnirl_core.config.path_checks import own_code
from omnirl_core.config.rows import read_rows
from omnirl_core.data import DataError
from omnirl_core.data.dataset import routing
from omnirl_core.launch import tell
from omnirl_core.rewards import Reward, load_rewards
from omnirl_core.rewards.coverage import Sample, coverage_error, used_rewards
from omnirl_core.shapes.drawing import draw_missing
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.trainer.fault_tolerance.checkpoint_storage import resume_path
from omnirl_core.trainer.fault_tolerance.graceful_shutdown import Interrupts
from omnirl_core.trainer.fault_tolerance.reward_guard import guarded_scores
from omnirl_core.trainer.reward_setup import reweighted
from omnirl_tools.evaluation.compare import Change, compare, table
from omnirl_tools.evaluation.lines import read_lines, write_lines
from omnirl_tools.evaluation.score import evaluate
from omnirl_tools.report import plot_curves, write_completions
from omnirl_tools.report.result import write_result

RESUMABLE = 75
"""Exit code of a run that a signal stopped and that can be resumed: EX_TEMPFAIL of sysexits.h, "try again later".

Not 143 or 130: those are what a shell reports of a process that the signal killed, with nothing saved.
"""
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")


@dataclass(frozen=True)
class Result:
    """What a run leaves behind, for callers and tests."""

    output_dir: Path
    changes: list[Change]
    trainer: OmniGRPOTrainer


def main(argv: list[str] | None = None) -> Result:
    """Run the config that `argv` (default: the command line) names; SystemExit(75) if a signal stopped it.

    In a job of several ranks an error ends its process at once: one that lingers, for a communicator to close, keeps
    the launcher from ending the others. The launcher reads the error from the file that `record` writes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return run(argv)
    try:
        return cast(Result, record(run)(argv))
    except Exception as error:  # noqa: BLE001  printed as it is
        if not tell(error):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def run(argv: list[str] | None) -> Result:
    """What `main` does on each rank."""
    started = time.monotonic()
    data, training, model_config = parse(argv, check_files=True)
    start_quietly(training)
    join_deepspeed(training)
    set_seed(training.seed)
    folder = Path(str(training.output_dir))
    with training.main_process_first(local=False, desc="drawing the shapes data set"):
        draw_missing(data)
    checkpoint = checkpoint_to_resume(training)
    trainer, rewards, held_out = build(data, training, model_config)
    if trainer.accelerator.is_main_process:
        write_run_file(folder, trainer, own_code(rewards), data, training, model_config)
    interrupts = Interrupts()
    trainer.add_callback(interrupts)

    before = graded_before(folder) if checkpoint else []
    before = before or grade(trainer, rewards, held_out, "before")
    trainer.train(resume_from_checkpoint=checkpoint)
    if interrupts.signal is not None:
        leave(trainer, interrupts)
    trainer.save_model()
    after = grade(trainer, rewards, held_out, "after")

    changes = compare(before, after) if before else []
    if trainer.accelerator.is_main_process:
        show(folder, changes)
        write_result(folder, changes, time.monotonic() - started)
    trainer.accelerator.wait_for_everyone()
    return Result(folder, changes, trainer)


def start_quietly(training: TrainingArguments) -> None:
    """No bar for every file that is read or written, no remark of DeepSpeed that the CPU asked for is a CPU."""
    disable_progress_bar()
    if training.use_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def join_deepspeed(training: TrainingArguments) -> None:
    """With `--deepspeed` on a CPU, transformers 5.23 starts the ranks without DeepSpeed, whose ZeRO-3 then sees one."""
    if training.deepspeed and training.use_cpu and training.world_size > 1:
        import_module("deepspeed.comm").init_distributed("gloo", auto_mpi_discovery=False, verbose=False)


def checkpoint_to_resume(training: OmniGRPOConfig) -> str | None:
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


def leave(trainer: OmniGRPOTrainer, interrupts: Interrupts) -> None:
    """End a run that a signal stopped: the checkpoint is written, what comes after training is left to the resume."""
    if trainer.accelerator.is_main_process and interrupts.signal is not None:
        print(
            f"\nStopped by {interrupts.signal.name} after step {trainer.state.global_step} of "
            f"{trainer.state.max_steps}; checkpoint-{trainer.state.global_step} is written. Go on with "
            "--resume_from_checkpoint auto",
            file=sys.stderr,
            flush=True,
        )
    trainer.accelerator.wait_for_everyone()
    raise SystemExit(RESUMABLE)


def build(
    data: DataArguments, training: OmniGRPOConfig, model_config: ModelConfig
) -> tuple[OmniGRPOTrainer, list[Reward], Dataset | None]:
    """The trainer, its rewards, and the held-out rows."""
    policy = policy_path(model_config)
    rewards = load_rewards(data.rewards) if data.rewards else default_rewards(data, policy)
    folder, held_out = Path(str(training.output_dir)), None
    dataset = read_rows(data, data.dataset_name, training.seed, folder / "bad_rows.txt")
    if data.eval_dataset_name:
        held_out = read_rows(data, data.eval_dataset_name, training.seed, folder / "bad_eval_rows.txt")
    if held_out is not None and data.eval_rows is not None:
        held_out = held_out.select(range(min(data.eval_rows, len(held_out))))
    rewards = reweighted(rewards, training.reward_weights)
    training.reward_weights = None  # each reward has its own now
    rewards = fitted(rewards, dataset, held_out)
    training.model_init_kwargs = model_settings(model_config)
    trainer = OmniGRPOTrainer(
        model=policy,
        args=training,
        reward_funcs=rewards,
        train_dataset=dataset,
        quantization_config=quantization_settings(model_config),
        peft_config=get_peft_config(model_config),
    )
    training.reward_weights = [reward.weight for reward in trainer.reward_funcs]  # for run.json
    return trainer, rewards, held_out


def fitted(rewards: list[Reward], dataset: Dataset, held_out: Dataset | None) -> list[Reward]:
    """The rewards that some sample needs; DataError where samples, to train on or held out, have none."""
    samples = [Sample(*row) for row in routing(dataset)]
    tested = [] if held_out is None else [Sample(*row) for row in routing(held_out)]
    for name, some in (("dataset_name", samples), ("eval_dataset_name", tested)):
        if error := coverage_error(some, rewards):
            raise DataError(f"{name}: {error}")
    return used_rewards(rewards, [one.task for one in (*samples, *tested)])


def grade(trainer: Trainer, rewards: list[Reward], rows: Dataset | None, name: str) -> list[dict[str, Any]]:
    """Answer the held-out rows greedily, each process its share; write `<name>.jsonl`; return every line everywhere."""
    if rows is None:
        return []
    accelerator = trainer.accelerator
    args: Any = trainer.args
    share = rows.select(range(accelerator.process_index, len(rows), accelerator.num_processes))
    with unwrap_model_for_generation(trainer.model_wrapped, accelerator) as model:
        lines = evaluate(
            model,
            trainer.processing_class,
            share,
            rewards,
            max_new_tokens=args.max_completion_length,
            batch_size=args.per_device_eval_batch_size,
            progress=f"{name} training" if accelerator.is_main_process else None,
            call=partial(
                guarded_scores,
                timeout_s=args.reward_timeout_s,
                on_error=args.on_reward_error,
                rank=accelerator.process_index,
            ),
        )
    lines = gather_object(lines)
    if accelerator.is_main_process:
        write_lines(Path(args.output_dir) / f"{name}.jsonl", lines)
    return lines


def graded_before(folder: Path) -> list[dict[str, Any]]:
    """The held-out lines that the run wrote before it was stopped, as the first rank reads them, everywhere."""
    lines = [read_lines(folder / "before.jsonl") if PartialState().is_main_process else []]
    return broadcast_object_list(lines)[0]


def write_run_file(
    folder: Path, trainer: OmniGRPOTrainer, reward_files: Mapping[str, str], *configs: Any
) -> None:
    """run.json: every setting that is not a default, processes and engine, the user's own code, the versions."""
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
        "reward_files": dict(reward_files),
        "processes": trainer.accelerator.num_processes,
        "engine": trainer.engine,
        "versions": versions,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")


def show(folder: Path, changes: list[Change], curves: bool = True) -> None:
    """Print before -> after, draw the pictures, and name every file, last."""
    if changes:
        print(f"\nHeld-out rows, greedy, before and after training\n\n{table(changes)}")
    made = [*([plot_curves(folder)] if curves else []), write_completions(folder)]
    print("\nLook at")
    for path in made:
        print(f"  {path}")
