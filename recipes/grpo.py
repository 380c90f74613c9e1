"""Train a vision-language model by GRPO on text, images, or any mix of the two.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/grpo.py --config recipes/mixed/demo.yaml

Each step samples `num_generations` completions of a prompt, scores them by the rewards, and moves the policy towards
those above their group's mean (GRPO: advantage = (reward - mean of the group) / standard deviation of the group).

Every key of the YAML can be given on the command line too, as `--key value`; `--debug` shows errors with their
traceback. All that a run writes lies in `output_dir`: run.json (settings and versions), metrics.jsonl and
completions.jsonl (while it trains), before.jsonl and after.jsonl (held-out samples, greedy), curves.png,
completions.html, result.json (what came out, minutes, memory), and the model.
"""

from omnirl_core import launch

if __name__ == "__main__":
    launch.before_imports()  # they take seconds

import time
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from trl import ModelConfig, get_peft_config

from omnirl_core.config import DataArguments, parse
from omnirl_core.rewards import Reward, load_rewards
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.trainer.callbacks import GracefulShutdown
from omnirl_tools.checks.path_checks import file_faults
from omnirl_tools.default_rewards import default_rewards
from omnirl_tools.drawing import draw_missing
from omnirl_tools.evaluation.compare import Change, compare
from omnirl_tools.model_settings import model_settings, policy_path, quantization_settings
from omnirl_tools.report.result import write_result
from omnirl_tools.run import (
    checkpoint_to_resume,
    fitted,
    grade,
    graded_before,
    held_out_samples,
    join_deepspeed,
    leave,
    reweighted,
    show,
    start_quietly,
    write_run_file,
)
from omnirl_tools.samples import read_rows
from omnirl_tools.warm_start import advise_warm_start


@dataclass(frozen=True)
class Result:
    """What a run leaves behind, for callers and tests."""

    output_dir: Path
    changes: list[Change]
    trainer: OmniGRPOTrainer


@launch.ending_all_ranks
def main(argv: list[str] | None = None) -> Result:
    """Run the config that `argv` (default: the command line) names; SystemExit(75) if a signal stopped it."""
    started = time.monotonic()

    # Arguments: a YAML's keys, and what the command line overrides
    data_args, training_args, model_args = parse(argv, [file_faults])
    output_dir = Path(str(training_args.output_dir))
    start_quietly(training_args)
    join_deepspeed(training_args)
    checkpoint = checkpoint_to_resume(training_args)

    # Data, model, rewards, trainer
    trainer, rewards, held_out = build(data_args, training_args, model_args)
    if trainer.accelerator.is_main_process:
        write_run_file(output_dir, trainer, rewards, data_args, training_args, model_args)

    # Before training: greedy answers to the held-out samples
    before = graded_before(output_dir) if checkpoint else []
    before = before or grade(trainer, rewards, held_out, "before")

    # A policy that never earns a reward learns nothing: said here, with the command of a warm start
    if data_args.warm_start_check and not checkpoint:
        advise_warm_start(trainer, rewards, argv)

    # Train; a signal ends it after the step at hand, with a checkpoint
    shutdown = GracefulShutdown()
    trainer.add_callback(shutdown)
    trainer.train(resume_from_checkpoint=checkpoint)
    if shutdown.signal is not None:
        leave(trainer, shutdown)

    # Save, and answer the same samples again
    trainer.save_model()
    after = grade(trainer, rewards, held_out, "after")

    # Report
    changes = compare(before, after) if before else []
    if trainer.accelerator.is_main_process:
        show(output_dir, changes)
        write_result(output_dir, changes, time.monotonic() - started)
    trainer.accelerator.wait_for_everyone()
    return Result(output_dir, changes, trainer)


def build(
    data_args: DataArguments, training_args: OmniGRPOConfig, model_args: ModelConfig
) -> tuple[OmniGRPOTrainer, list[Reward], Dataset | None]:
    """The trainer, its rewards, and the held-out samples."""
    # Data: checked samples; images are opened as batches are drawn
    with training_args.main_process_first(local=False, desc="drawing the shapes data set"):
        draw_missing(data_args)
    report = Path(str(training_args.output_dir)) / "bad_rows.txt"
    model = policy_path(model_args)
    rewards = load_rewards(data_args.rewards) if data_args.rewards else default_rewards(data_args, model)
    dataset = read_rows(data_args, data_args.dataset_name, training_args.seed, report)
    held_out = held_out_samples(data_args, training_args)

    # Rewards: weights of the YAML over those of the file; every sample needs one that judges its answer
    rewards = reweighted(rewards, training_args.reward_weights)
    training_args.reward_weights = None
    rewards = fitted(rewards, dataset, held_out)

    # Model and trainer
    training_args.model_init_kwargs = model_settings(model_args)
    trainer = OmniGRPOTrainer(
        model=model,
        args=training_args,
        reward_funcs=rewards,
        train_dataset=dataset,
        quantization_config=quantization_settings(model_args),
        peft_config=get_peft_config(model_args),
    )
    training_args.reward_weights = [reward.weight for reward in trainer.reward_funcs]  # for run.json
    return trainer, rewards, held_out


if __name__ == "__main__":
    launch.start(main)
