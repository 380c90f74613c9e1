"""One of two ranks fails, stalls or is told to stop: the job ends everywhere, and says which rank, on what rows."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from forked import environment, python

from omnirl_core.shapes import write_dataset
from omnirl_tools.resume import newest_checkpoint

SCRIPT = Path(__file__).parents[2] / "distributed" / "distributed_faults.py"
REWARD = """
import os, re, time

def score(completion, *, row_id=None):
    \"\"\"In [0, 1]; on rank 1 whatever FAULT says.\"\"\"
    fault = os.environ.get("FAULT") if os.environ.get("RANK") == "1" else None
    if fault == "raise":
        raise KeyError(f"no such thing in {row_id}")
    if fault == "sleep":
        time.sleep(10_000)
    if fault == "hold the lock":
        re.match(r"(a+)+$", "a" * 60 + "b")
    return len(completion) % 7 / 7
"""
SETTINGS = {
    "model_name_or_path": "tiny_policy", "templates": '{"default": "plain"}', "bf16": "false", "use_cpu": "true",
    "gradient_checkpointing": "false", "per_device_train_batch_size": "4", "num_generations": "4",
    "max_completion_length": "8", "max_steps": "3", "learning_rate": "1e-3", "logging_steps": "1", "seed": "3",
    "save_strategy": "no", "report_to": "none", "disable_tqdm": "true",
    "warm_start_check": "false",  # it would meet the faulty reward first
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    write_dataset(folder, "mixed", 16, 0, "train")
    (folder / "scores.py").write_text(REWARD)
    (folder / "rewards.yaml").write_text("rewards:\n  - {name: scored, function: scores.py:score}\n")
    return folder


@pytest.fixture
def job(data, tmp_path):
    """Run on two ranks; the exit code, and all that was printed."""

    def run(fault: str, folder: str = "run", seconds: float = 300, **settings: str) -> tuple[int, str]:
        given = {
            **SETTINGS, "dataset_name": str(data / "train.json"), "rewards": str(data / "rewards.yaml"), **settings,
        }  # fmt: skip
        command = [
            python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT), fault,
            str(tmp_path / folder), *(part for key, value in given.items() for part in (f"--{key}", value)),
        ]  # fmt: skip
        done = subprocess.run(
            command,
            env=environment(ACCELERATE_USE_CPU="true", FAULT=fault),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        return done.returncode, done.stdout

    return run


@pytest.mark.slow
def test_a_rank_that_raises_in_its_reward_ends_all_with_the_row_and_the_traceback(job, tmp_path):
    """A synchronous reward, and an asynchronous one with an error that asyncio has, too."""
    code, printed = job("raise")
    assert code == 1
    reported = re.search(
        r"reward 'scored' raised KeyError: .* on row '(\S+)' \(completion '.*', solution .*\), rank 1",
        printed,
    )
    assert reported, printed[-4000:]
    assert re.search(r'scores\.py", line \d+, in score', printed)
    line = json.loads((tmp_path / "run" / "faults.jsonl").read_text().splitlines()[0])
    assert (line["rank"], line["row_ids"]) == (1, [reported[1]])
    same = r"reward 'later' raised TimeoutError: the judge's server did not answer on row '.*, rank 1$"
    assert len(re.findall(same, printed, re.MULTILINE)) >= 2, "both ranks say so"
    assert not re.search(r"[Cc]onnection (closed|reset|was)|[Bb]roken pipe", printed), "both have ended by themselves"
    assert len(re.findall(r"^rank [01]: ", printed, re.MULTILINE)) >= 2, "each rank's last stage"
    said = re.search(r"Runs your own code: (\S+scores\.py:score) \(SHA-256 (\w{12})\)", printed)
    files = json.loads((tmp_path / "run" / "run.json").read_text())["reward_files"]
    assert said, printed[:4000]
    assert files[said[1]].startswith(said[2])


@pytest.mark.slow
def test_a_rank_that_raises_anywhere_else_ends_all_with_what_each_was_doing(job, tmp_path):
    """The other rank waits in a collective, from which only the launcher can take it."""
    code, printed = job("raise_in_its_step", seconds=200)
    assert code == 1
    assert "ArithmeticError: this rank alone cannot go on" in printed
    assert re.search(r'distributed_faults\.py", line \d+, in compute_loss', printed)
    reported = re.search(r"^rank 1: .* of step 2, rows (\S+)", printed, re.MULTILINE)
    assert reported, printed[-4000:]
    last = json.loads((tmp_path / "run" / "ranks" / "rank1.json").read_text())
    assert last["row_ids"][0] in reported[1]
    assert re.search(r"rank\s*: 1 .*\n.*exitcode\s*: 1", printed), printed[-3000:]


@pytest.mark.slow
def test_a_loss_that_is_none_on_one_rank_is_left_out_on_both(job, tmp_path):
    code, printed = job("nan_loss", on_nonfinite="skip")
    assert code == 0, printed[-4000:]
    line = json.loads((tmp_path / "run" / "faults.jsonl").read_text())
    assert (line["kind"], line["rank"], line["step"], len(line["rows"])) == ("loss", 1, 2, 4)
    first, second = (torch.load(tmp_path / "run" / f"rank{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)
    assert first.isfinite().all()
    assert not (tmp_path / "run" / "ranks").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["sleep", "hold the lock"])
def test_a_rank_that_stalls_ends_all_and_is_named(job, tmp_path, fault):
    code, printed = job(fault, stall_timeout_s="15")
    assert code == 1
    assert re.search(r"rank [01] has made no progress for \d+ s, above stall_timeout_s 15", printed), printed[-4000:]
    stalled = re.search(r"^rank 1: reward 'scored' of step 1, rows (.*), since", printed, re.MULTILINE)
    assert stalled, printed[-4000:]
    assert stalled[1]
    if fault == "sleep":
        assert "rank 1 has made no progress" in printed
    assert re.search(r'scores\.py", line \d+ in score', printed), "the traceback of the rank that stalls"


@pytest.mark.slow
def test_a_signal_at_one_rank_stops_both_at_one_step_and_a_resume_is_the_uninterrupted_run(job, tmp_path):
    code, printed = job("signal_to_itself")
    assert code == 1, "the launcher's own code"
    assert re.search(r"exitcode\s*: 75", printed), printed[-4000:]
    assert "Stopped by SIGTERM after step 2 of 3; checkpoint-2 is written" in printed
    newest = newest_checkpoint(tmp_path / "run")
    assert newest == tmp_path / "run" / "checkpoint-2"
    assert sorted(path.name for path in newest.glob("rng_state*")) == ["rng_state_0.pth", "rng_state_1.pth"]
    code, printed = job("none", resume_from_checkpoint="auto")
    assert code == 0, printed[-4000:]
    code, printed = job("none", folder="whole")
    assert code == 0, printed[-4000:]
    for rank in (0, 1):
        resumed, whole = (torch.load(tmp_path / folder / f"rank{rank}.pt") for folder in ("run", "whole"))
        assert torch.equal(resumed, whole)
    resumed, whole = ((tmp_path / folder / "completions.jsonl").read_text() for folder in ("run", "whole"))
    assert resumed == whole
