"""A run whose second rank has the given fault; run by fault_tolerance/test_faults_of_ranks.py."""

import os
import signal
import sys
from pathlib import Path

import torch
from trl import GRPOTrainer

sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes import grpo


def nan_loss(plain):
    def compute_loss(self, model, inputs):
        loss = plain(self, model, inputs)
        return loss * float("nan") if self.state.global_step == 1 and self.model.training else loss

    return compute_loss


def signal_to_itself(plain):
    def compute_loss(self, model, inputs):
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, model, inputs)

    return compute_loss


def raise_in_its_step(plain):
    def compute_loss(self, model, inputs):
        if self.state.global_step == 1:
            raise ArithmeticError("this rank alone cannot go on")
        return plain(self, model, inputs)

    return compute_loss


async def later(completions, row_id, **columns):
    """An asynchronous reward whose own client gives up, on the second rank alone."""
    if os.environ["RANK"] == "1":
        raise TimeoutError("the judge's server did not answer")
    return [0.5] * len(completions)


later.weight, later.scorer = 1.0, None  # what a run reads of a reward


def main() -> None:
    fault, folder = sys.argv[1], Path(sys.argv[2])
    rank = int(os.environ["RANK"])
    if rank == 1 and fault in ("nan_loss", "signal_to_itself", "raise_in_its_step"):
        GRPOTrainer._compute_loss = globals()[fault](GRPOTrainer._compute_loss)
    if fault == "raise":
        load_rewards = grpo.load_rewards
        grpo.load_rewards = lambda path: [*load_rewards(path), later]
    result = grpo.main(["--output_dir", str(folder), *sys.argv[3:]])
    assert result.trainer.accelerator.num_processes == 2
    weights = [parameter.detach().flatten() for parameter in result.trainer.model.parameters()]
    torch.save(torch.cat(weights), folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main()
