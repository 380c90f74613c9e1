"""Warm start: teach the policy the form and the answers of your samples by TRL's SFTTrainer, before GRPO.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sft.py --config recipes/mixed/sft.yaml

GRPO learns from what a policy does right some of the time; where the form or the kind of answer never occurs, some
steps of imitation bring it there. It reads the samples that recipes/grpo.py reads, with no, one or many images. What
it saves is a policy that recipes/grpo.py starts from, by the `--model_name_or_path` that it prints last.
"""

from omnirl_core import launch

if __name__ == "__main__":
    launch.before_imports()  # they take seconds

from pathlib import Path

from datasets import Dataset
from trl import ModelConfig, SFTTrainer, get_peft_config

from omnirl_core.models import freeze_vision_tower, has_vision, load_processor, without_vision
from omnirl_core.rewards import load_rewards
from omnirl_tools.drawing import draw_missing
from omnirl_tools.evaluation.compare import compare
from omnirl_tools.model_settings import model_settings, policy_path, quantization_settings
from omnirl_tools.run import checkpoint_to_resume, grade, held_out_samples, show, start_quietly
from omnirl_tools.samples import read_rows
from omnirl_tools.sft import OmniSFTConfig, SeeingSFTTrainer, parse_sft, rows_to_say, saved_policy
from omnirl_tools.warm_start import stop_at_accuracy


def main(argv: list[str] | None = None) -> SFTTrainer:
    """Run the config that `argv` (default: the command line) names; the model is saved to `output_dir`.

    Where it names rewards and held-out samples (`rewards`, `eval_dataset_name`), these are answered before and after,
    as in GRPO: before.jsonl, after.jsonl, completions.html and the table. With LoRA the adapter is saved to
    `output_dir`, and merged into its model to `output_dir/merged`.
    """
    # Arguments: a YAML's keys, and what the command line overrides
    data_args, training_args, model_args = parse_sft(argv)
    output_dir = Path(str(training_args.output_dir))
    start_quietly(training_args)
    checkpoint = checkpoint_to_resume(training_args)

    # Data, model, trainer
    with training_args.main_process_first(local=False, desc="drawing the shapes data set"):
        draw_missing(data_args)
    rows = read_rows(data_args, data_args.dataset_name, training_args.seed, output_dir / "bad_rows.txt")
    trainer = build(rows, training_args, model_args)

    # Train between two rounds of greedy answers to the held-out samples, at most until half or so is right
    rewards = load_rewards(data_args.rewards) if data_args.rewards else []
    if stop := stop_at_accuracy(trainer, rewards, rows, training_args):
        trainer.add_callback(stop)
    held_out = held_out_samples(data_args, training_args) if rewards else None
    before = grade(trainer, rewards, held_out, "before")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    after = grade(trainer, rewards, held_out, "after")

    # Report
    if trainer.accelerator.is_main_process:
        if before:
            show(output_dir, compare(before, after), curves=False)
        start = saved_policy(trainer, output_dir)  # with LoRA, the adapter is merged here
        print(f"\nSaved; start GRPO from it with --model_name_or_path {start}")
    trainer.accelerator.wait_for_everyone()
    return trainer


def build(rows: Dataset, training_args: OmniSFTConfig, model_args: ModelConfig) -> SFTTrainer:
    """TRL's trainer over prompts and responses."""
    model = policy_path(model_args)
    sees = has_vision(model)
    processor = load_processor(model, training_args.min_pixels, training_args.max_pixels)
    peft_config = get_peft_config(model_args)
    if peft_config is not None and training_args.freeze_vision_tower:
        peft_config = without_vision(peft_config)
    training_args.model_init_kwargs = model_settings(model_args)
    trainer = SeeingSFTTrainer(
        model=model,
        args=training_args,
        train_dataset=rows_to_say(rows, training_args, processor, model if sees else None),
        processing_class=processor,
        quantization_config=quantization_settings(model_args),
        peft_config=peft_config,
    )
    trainer.show_progress_as_grpo()
    if training_args.freeze_vision_tower:
        freeze_vision_tower(trainer.model)
    if sees:
        trainer.see_in_every_pass(processor)
    return trainer


if __name__ == "__main__":
    launch.start(main)
