"""Non-finite values never reach the weights, and what was at fault is on the record."""

import itertools
import json

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from omnirl_core.trainer import OmniGRPOTrainer
from omnirl_core.trainer.fault_tolerance.nonfinite import NonFiniteError
from omnirl_core.trainer.fault_tolerance.reward_guard import RewardError
from omnirl_core.trainer.shared_prefix.runtime import SharedPrefix


def parameters(worker):
    return torch.cat([p.detach().flatten() for p in worker.model.parameters()])


def faults(folder):
    return [json.loads(line) for line in (folder / "run" / "faults.jsonl").read_text().splitlines()]


@pytest.fixture
def spoil(monkeypatch):
    """Make a worker's loss, gradient or log-probability non-finite at some steps, below what watches them."""

    def make(worker, what, steps=(1,)):
        owner, name = {
            "loss": (GRPOTrainer, "_compute_loss"),
            "log-probability": (SharedPrefix, "log_probs"),
            "gradient norm": (GRPOTrainer, "_clip_grad_norm"),
        }[what]
        plain = getattr(owner, name)

        def spoiled(self, *args, **kwargs):
            if worker.state.global_step not in steps or not worker.model.training:
                return plain(self, *args, **kwargs)
            if what == "gradient norm":
                next(p for p in worker.model.parameters() if p.grad is not None).grad.view(-1)[0] = float("inf")
            value = plain(self, *args, **kwargs)
            if what == "log-probability":
                values, entropies = value
                nan = torch.zeros_like(values)
                nan[1] = float("nan")
                return values + nan, entropies
            return value * float("nan") if what == "loss" else value

        monkeypatch.setattr(owner, name, spoiled)

    return make


@pytest.mark.parametrize("what", ["loss", "gradient norm", "log-probability"])
def test_stop_keeps_it_from_the_weights_and_records_the_rows(trainer, rows, tmp_path, spoil, what):
    worker = trainer(rows, per_device_train_batch_size=4, max_steps=3, shared_prefix="auto")
    spoil(worker, what)
    kept = []

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            kept.append(parameters(worker))

    worker.add_callback(Keep())
    with pytest.raises(NonFiniteError, match=rf"{what} (nan|inf) on rank 0, rows r:\d") as error:
        worker.train()
    assert "faults.jsonl" in str(error.value)
    assert "on_nonfinite: skip" in str(error.value)
    assert worker.state.global_step == 1
    assert torch.equal(parameters(worker), kept[0])
    found = faults(tmp_path)
    assert {line["kind"] for line in found} == {what} | ({"loss"} if what == "log-probability" else set())
    line = found[0]
    assert line["step"] == 2
    assert line["row_ids"] == [row["row_id"] for row in line["rows"]]
    assert set(line["rows"][0]) >= {"completion", "rewards", "solution", "problem"}
    assert len(line["rows"]) == (1 if what == "log-probability" else 4)


def test_skip_leaves_the_step_out_entirely_and_counts_it(trainer, rows, tmp_path, spoil):
    worker = trainer(rows, per_device_train_batch_size=4, max_steps=3, on_nonfinite="skip", weight_decay=0.1)
    spoil(worker, "loss")
    kept = []

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            moments = [s["exp_avg"].flatten() for s in worker.optimizer.state.values()]
            kept.append(torch.cat([parameters(worker), *moments]))

    worker.add_callback(Keep())
    worker.train()
    assert worker.state.global_step == 3
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[1], kept[2])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("nonfinite_steps") for line in lines if "reward" in line] == [None, 1.0, None]


@pytest.mark.parametrize("setting", ["stop", "skip"])
def test_what_an_evaluation_meets_neither_stops_nor_skips_a_step(trainer, rows, monkeypatch, setting):
    plain = SharedPrefix.log_probs

    def spoiled(self, *args, **kwargs):
        values, entropies = plain(self, *args, **kwargs)
        return (values if worker.model.training else values * float("nan")), entropies

    monkeypatch.setattr(SharedPrefix, "log_probs", spoiled)
    worker = trainer(
        rows, max_steps=3, beta=0.1, shared_prefix="auto", on_nonfinite=setting, eval_data=rows[:1],
        eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=2,
    )  # fmt: skip
    kept = [parameters(worker)]

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            kept.append(parameters(worker))

    worker.add_callback(Keep())
    worker.train()
    assert worker.state.global_step == 3
    assert not any(torch.equal(before, after) for before, after in itertools.pairwise(kept))
    assert not any("nonfinite_steps" in line for line in worker.state.log_history)


def test_too_many_in_a_row_stop(trainer, rows, tmp_path, spoil):
    settings = dict(max_steps=6, on_nonfinite="skip", max_nonfinite_steps=2)
    worker = trainer(rows, **settings)
    spoil(worker, "loss", steps=range(1, 9))
    with pytest.raises(NonFiniteError, match="3 steps in a row were not finite, above max_nonfinite_steps 2"):
        worker.train()
    assert worker.state.global_step == 3
    assert len(faults(tmp_path)) == 3


# -- rewards ------------------------------------------------------------------------------------------------------


def lengths(completions, **columns):
    return [len(completion[0]["content"]) / 10 for completion in completions]


def picky(completions, row_id, **columns):
    return [float("nan") if row == "r:3" else score for row, score in zip(row_id, lengths(completions), strict=True)]


def test_a_reward_that_fails_stops_the_run(trainer, rows, tmp_path):
    worker = trainer(rows[2:3] * 2, reward=[lengths, picky])
    with pytest.raises(
        RewardError, match=r"reward 'picky' returned nan on row 'r:3' \(completion '.*', solution"
    ) as error:
        worker.train()
    assert "on_reward_error: abstain" in str(error.value)
    assert worker.state.global_step == 0
    line = faults(tmp_path)[0]
    assert (line["kind"], line["reward"], line["row_ids"], line["step"]) == ("reward", "picky", ["r:3"], 1)


def test_abstain_goes_on_and_counts(trainer, rows, tmp_path):
    worker = trainer(rows[2:4], reward=[lengths, picky], on_reward_error="abstain", max_steps=2)
    assert worker.train().global_step == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("rewards/picky/errors") or 0 for line in lines) == 2
    assert len(faults(tmp_path)) == 2
    assert worker.reward_funcs == [lengths, picky]


def test_no_judgement_at_all_stops_the_run(trainer, rows):
    worker = trainer(rows, reward=lambda completions, **columns: [None] * len(completions))
    with pytest.raises(RewardError, match="gave None for every completion"):
        worker.train()


def test_a_plain_config_of_trl_gets_trls_behaviour(rows, tiny_checkpoint, tmp_path):
    plain = GRPOConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, max_steps=1, num_generations=2,
        per_device_train_batch_size=2, max_completion_length=8, save_strategy="no",
    )  # fmt: skip
    data = Dataset.from_list([{**row, "images": None} for row in rows if not row["images"]])
    assert OmniGRPOTrainer(tiny_checkpoint, [lengths, picky], plain, data).train().global_step == 1
