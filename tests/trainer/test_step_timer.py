"""The time of a step, split by phase: nothing is counted twice, nothing is lost."""

import json
import time
from collections import defaultdict
from types import SimpleNamespace

import pytest

from omnirl_core.rewards import Reward
from omnirl_core.rewards.grounding import box_iou
from omnirl_core.trainer import callbacks
from omnirl_core.trainer.callbacks import PHASES, StepTimer


def test_phases_within_phases_add_up_to_the_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def wait(seconds):
        now[0] += seconds

    metrics = defaultdict(list)
    clock = StepTimer(metrics)
    clock.on_step_end(None, None, None)  # before any step: nothing
    with clock.measure("score"):
        wait(50)  # an evaluation before the first step
    for _ in range(2):
        clock.on_step_begin(None, None, None)
        wait(1)
        with clock.measure("prepare"):
            wait(2)
            with clock.measure("rollout"):
                wait(4)
            with clock.measure("score"):
                wait(8)
        with clock.measure("prepare"):
            wait(16)
        wait(32)
        clock.on_step_end(None, None, None)
        wait(64)
    assert metrics == {
        "time/prepare": [18] * 2,
        "time/rollout": [4] * 2,
        "time/score": [8] * 2,
        "time/train": [33] * 2,
    }


def test_a_run_logs_where_its_time_went(trainer, rows, tmp_path):
    def slow(completions, **columns):
        time.sleep(0.2)
        return [float(len(completion[0]["content"])) for completion in completions]

    worker = trainer(rows, reward=slow, max_steps=4, logging_steps=2, num_iterations=2, eval_data=rows[:2],
                     eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=2)  # fmt: skip
    worker.train()
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in logged if "loss" in line]
    assert len(training) == 2
    for line in training:
        times = {phase: line[f"time/{phase}"] for phase in PHASES}
        assert min(times.values()) > 0
        assert times["score"] >= 0.2 / 2  # one rollout for two steps
        assert sum(times.values()) >= line["step_time"]
    assert not any("time/" in name for line in logged if "loss" not in line for name in line)


def test_lines_tell_how_boxes_are_read(trainer, rows, tmp_path):
    reward = Reward("box_iou", box_iou, tasks=("test",), settings={"space": "resized"})
    boxes = [{**row, "solution": [0, 0, 9, 9] if row["images"] else "none"} for row in rows[:2]]
    trainer(boxes, reward=[reward], per_device_train_batch_size=4, max_steps=1).train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    reported = {line["row_id"]: line.get("boxes") for line in lines}
    assert reported == {
        "r:1": None,
        "r:2": {"space": "resized", "solution_space": "pixels", "image_index": 0},
    }


@pytest.mark.parametrize("phase", PHASES)
def test_an_error_within_a_phase_leaves_the_clock_whole(phase):
    clock = StepTimer(defaultdict(list))

    def fail():
        with clock.measure("prepare"), clock.measure(phase):
            raise KeyError(phase)

    with pytest.raises(KeyError):
        fail()
    assert clock._inner > 0
