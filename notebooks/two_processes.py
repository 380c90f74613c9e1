"""Two GRPO steps on as many processes as the launcher started, first with OmniRL, then with TRL alone.

    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 two_processes.py FOLDER

04_mixed_modality.ipynb draws the rows into FOLDER, runs this on two processes, and `train` on one besides.
"""

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig, GRPOTrainer

from omnirl_core.data import load_dataset, modality
from omnirl_core.rewards import Reward, exact, think_format
from omnirl_core.shapes import tiny_policy
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer

# every prompt gets these four, so that no dice decide whether two runs agree
ANSWERS = ("<think>red star</think><answer>red</answer>", "<answer>first</answer>", "2", "<think>two</think>")


def train(folder: Path, kind: type[GRPOTrainer], processes: int) -> GRPOTrainer:
    """Train two steps of four prompts each with plain gradient descent, whose update is the gradient."""

    class WithFixedAnswers(kind):  # type: ignore[misc, valid-type]
        def _generate_single_turn(self, prompt_ids: list, *args: Any, **kwargs: Any) -> tuple[list, None]:
            texts = [ANSWERS[place % 4] + self._tokenizer.eos_token for place in range(len(prompt_ids))]
            return self._tokenizer(texts)["input_ids"], None

    settings = dict(
        output_dir=str(folder / f"{kind.__name__}_on_{processes}"), use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, disable_tqdm=True, save_strategy="no", seed=0, shuffle_dataset=False,
        num_generations=4, per_device_train_batch_size=8, gradient_accumulation_steps=2 // processes, max_steps=2,
        max_completion_length=16, optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0.0,
    )  # fmt: skip
    config = OmniGRPOConfig if issubclass(kind, OmniGRPOTrainer) else GRPOConfig
    rows = load_dataset(folder / "rows.json", templates={"default": "plain"})
    rewards = [Reward("think_format", think_format), Reward("exact", exact)]
    trainer = WithFixedAnswers(tiny_policy(), rewards, config(**settings), rows)
    assert trainer.accelerator.num_processes == processes, "the launcher started another number of processes"
    trainer.train()
    return trainer


def weights(model: torch.nn.Module) -> torch.Tensor:
    """Every parameter in one long vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def main(folder: Path) -> None:
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    started = time.monotonic()
    trainer = train(folder, OmniGRPOTrainer, processes)
    torch.save(weights(trainer.model), folder / f"weights_of_rank{rank}.pt")
    patience_s = 10 + 3 * (time.monotonic() - started)

    here = threading.get_ident()
    watchdog = threading.Timer(patience_s, leave, (folder, rank, here, patience_s))
    watchdog.start()
    train(folder, GRPOTrainer, processes)
    watchdog.cancel()
    (folder / f"trl_on_rank{rank}.json").write_text(json.dumps({"finished": True}))


def leave(folder: Path, rank: int, thread: int, patience_s: float) -> None:
    """Write down where the training stands, wait until the other process has done so too, and end this one."""
    stack = traceback.extract_stack(sys._current_frames()[thread])
    calls = [f"{Path(frame.filename).name}: {frame.name}" for frame in stack]
    report = folder / f"trl_on_rank{rank}.json"
    report.write_text(json.dumps({"finished": False, "patience_s": patience_s, "calls": calls}))
    last_wait = time.monotonic() + 60
    while len(list(folder.glob("trl_on_rank*.json"))) < 2 and time.monotonic() < last_wait:
        time.sleep(0.5)
    os._exit(3)


def kinds(folder: Path) -> list[str]:
    """The modality of each row, in order."""
    return [modality(row) for row in load_dataset(folder / "rows.json")]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
