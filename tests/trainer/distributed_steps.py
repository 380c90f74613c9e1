"""Two steps over rows of given kinds, on as many processes as the launcher started; run by test_distributed.py."""

import argparse
import json
from pathlib import Path

import torch
from conftest import ScriptedTrainer, lazily, letters, row

from omnirl_core.trainer import OmniGRPOConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    parser.add_argument("--pictures", nargs="+")
    parser.add_argument("--kinds", help="T text, I one picture, M three; eight rows, four a step")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--shared_prefix", default="off")
    args = parser.parse_args()

    images = {"T": [], "I": args.pictures[:1], "M": args.pictures[1:4]}
    rows = [
        row(f"Row {place} of kind {kind}", images[kind], f"{place}") for place, kind in enumerate(args.kinds)
    ]
    config = OmniGRPOConfig(
        str(args.output), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", logging_steps=1, max_steps=2, seed=1, shuffle_dataset=False,
        num_generations=2, per_device_train_batch_size=2, gradient_accumulation_steps=4 // args.processes,
        max_completion_length=8, optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0.0,
        beta=args.beta, log_completions=True, shared_prefix=args.shared_prefix,
    )  # fmt: skip
    trainer = ScriptedTrainer(args.checkpoint, letters, config, lazily(rows))
    assert trainer.accelerator.num_processes == args.processes
    drawn = []
    plain = trainer._generate_and_score_completions

    def remember(inputs):
        drawn.append("".join(args.kinds[int(row["row_id"])] for row in inputs))
        return plain(inputs)

    trainer._generate_and_score_completions = remember
    trainer.train()
    rank = trainer.accelerator.process_index
    (args.output / f"rank{rank}.json").write_text(json.dumps(drawn))
    weights = [parameter.detach().flatten() for parameter in trainer.model.parameters()]
    torch.save(torch.cat(weights), args.output / f"rank{rank}.pt")


if __name__ == "__main__":
    main()
