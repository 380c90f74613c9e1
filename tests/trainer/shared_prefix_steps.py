"""Two sampled steps, text on one process and pictures on the other; run by shared_prefix/test_distributed.py."""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

import torch
from conftest import lazily, letters, row

from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer


def gathered(parameters: list, is_zero3: bool):
    if not is_zero3:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    parser.add_argument("--pictures", nargs="+")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--shared-prefix")
    parser.add_argument("--strategy", choices=["ddp", "zero3", "zero3_ungathered"])
    parser.add_argument("--local-group", type=int, default=4, help="rows of a group on one process, of 4")
    args = parser.parse_args()

    kinds = "TIMT" if args.local_group == 4 else "TM"
    images = {"T": [], "I": args.pictures[:1], "M": args.pictures[1:4]}
    rows = [row(f"Row {place} of kind {kind}", images[kind], f"{place}") for place, kind in enumerate(kinds)]
    is_zero3 = args.strategy != "ddp"
    config = OmniGRPOConfig(
        str(args.output), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", logging_steps=1, max_steps=2, seed=1, shuffle_dataset=False,
        num_generations=4, per_device_train_batch_size=args.local_group, gradient_accumulation_steps=1,
        max_completion_length=8, optim="sgd", learning_rate=0.5, lr_scheduler_type="constant", beta=0.1,
        num_iterations=2, log_completions=False, shared_prefix=args.shared_prefix,
        verify_shared_prefix=args.shared_prefix == "on", 
        ds3_gather_for_generation=args.strategy != "zero3_ungathered",
    )  # fmt: skip
    trainer = OmniGRPOTrainer(args.checkpoint, letters, config, lazily(rows))
    assert trainer.accelerator.num_processes == 2
    assert trainer._shares_rollout == (args.shared_prefix == "on")
    parameters = list(trainer.model.parameters())
    with gathered(parameters, is_zero3):
        start = torch.cat([parameter.detach().flatten().clone() for parameter in parameters])
    trainer.train()
    parameters = list(trainer.model.parameters())
    with gathered(parameters, is_zero3):
        moved = torch.cat([parameter.detach().flatten() for parameter in parameters]) - start
    if trainer.accelerator.is_main_process:
        log = [line for line in trainer.state.log_history if "loss" in line]
        (args.output / "log.json").write_text(json.dumps([[line["loss"], line.get("kl")] for line in log]))
        torch.save(moved, args.output / "moved.pt")
    trainer.accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()  # gloo aborts a process that ends while the other still talks to it


if __name__ == "__main__":
    main()
