"""Two sampled steps of each strategy, shared and plain, with text on one process and images on the other.

Run by shared_prefix/test_distributed.py.
"""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

import torch
from conftest import lazily, letters, row
from trl import GRPOTrainer

from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.trainer.fault_tolerance.image_guard import ImageMismatchError

STRATEGIES = ("ddp", "ddp_split", "zero3", "zero3_ungathered")
PIXELS = ("pixel_values", "image_grid_thw", "mm_token_type_ids")


def gathered(parameters: list, is_zero3: bool):
    if not is_zero3:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    parser.add_argument("--image_files", nargs="+")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES)
    args = parser.parse_args()
    for strategy in args.strategies:
        for shared in ("on", "off"):
            train(strategy, shared, args.checkpoint, args.image_files, args.output / f"{strategy}_{shared}")
    go_blind(args.strategies[0], args.checkpoint, args.image_files, args.output)
    torch.distributed.destroy_process_group()  # gloo aborts a process that ends while the other still talks to it


def make_trainer(strategy: str, shared: str, checkpoint: str, image_files: list[str], output: Path) -> OmniGRPOTrainer:
    local_group = 2 if strategy == "ddp_split" else 4  # rows of a group on one process, of 4
    kinds = "TIMT" if local_group == 4 else "TM"
    images = {"T": [], "I": image_files[:1], "M": image_files[1:4]}
    rows = [row(f"Row {place} of kind {kind}", images[kind], f"{place}") for place, kind in enumerate(kinds)]
    config = OmniGRPOConfig(
        str(output), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", logging_steps=1, max_steps=2, seed=1, shuffle_dataset=False,
        num_generations=4, per_device_train_batch_size=local_group, gradient_accumulation_steps=1,
        max_completion_length=8, optim="sgd", learning_rate=0.5, lr_scheduler_type="constant", beta=0.1,
        num_iterations=2, log_completions=False, shared_prefix=shared,
        verify_shared_prefix=shared == "on", 
        ds3_gather_for_generation=strategy != "zero3_ungathered",
    )  # fmt: skip
    return OmniGRPOTrainer(checkpoint, letters, config, lazily(rows))


def train(strategy: str, shared: str, checkpoint: str, image_files: list[str], output: Path) -> None:
    """The two steps; `output` gets what they left."""
    is_zero3 = strategy.startswith("zero3")
    trainer = make_trainer(strategy, shared, checkpoint, image_files, output)
    assert trainer.accelerator.num_processes == 2
    assert (trainer.shared_prefix is not None and trainer.shared_prefix.in_rollout) == (shared == "on")
    parameters = list(trainer.model.parameters())
    with gathered(parameters, is_zero3):
        start = torch.cat([parameter.detach().flatten().clone() for parameter in parameters])
    trainer.train()
    parameters = list(trainer.model.parameters())
    with gathered(parameters, is_zero3):
        moved = torch.cat([parameter.detach().flatten() for parameter in parameters]) - start
    if trainer.accelerator.is_main_process:
        log = [line for line in trainer.state.log_history if "loss" in line]
        (output / "log.json").write_text(json.dumps([[line["loss"], line.get("kl")] for line in log]))
        torch.save(moved, output / "moved.pt")
    trainer.accelerator.wait_for_everyone()


def go_blind(strategy: str, checkpoint: str, image_files: list[str], output: Path) -> None:
    """The second process loses the pixels of its image while it trains; `output` gets what each process was told."""
    trainer = make_trainer(strategy, "off", checkpoint, image_files, output / "blind")
    rank = trainer.accelerator.process_index
    if rank == 1:
        plain = GRPOTrainer._get_per_token_logps_and_entropies

        def without(self, *args, **fields):
            kept = {name: value for name, value in fields.items() if name not in PIXELS}
            return plain(self, *args, **(kept if torch.is_grad_enabled() else fields))

        GRPOTrainer._get_per_token_logps_and_entropies = without
    try:
        trainer.train()
    except ImageMismatchError as error:
        (output / f"blind{rank}.txt").write_text(str(error))
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
