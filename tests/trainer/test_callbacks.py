import json
import math
from types import SimpleNamespace

import pytest
from conftest import lazily
from PIL import Image
from transformers import PrinterCallback, ProgressCallback
from transformers.utils.notebook import NotebookProgressCallback

from omnirl_core.trainer.callbacks import (
    JsonlLogger,
    RewardLines,
    RewardProgress,
    as_json,
    in_place_of,
)
from omnirl_core.trainer.completion_logging import completion_lines, prompt_text


def _read(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def _state(step, first=True):
    return SimpleNamespace(global_step=step, is_world_process_zero=first, max_steps=5)


def test_a_run_writes_what_it_logged_and_every_completion(trainer, rows, tmp_path):
    worker = trainer(
        rows, scripted=True, per_device_train_batch_size=4, max_steps=3, eval_data=rows[:2], eval_strategy="steps",
        eval_steps=2, per_device_eval_batch_size=4,
    )  # fmt: skip
    worker.train()
    metrics = _read(tmp_path / "run" / "metrics.jsonl")
    training = [line for line in metrics if "loss" in line]
    assert [line["step"] for line in training] == [1, 2, 3]
    assert training[0]["reward"] == worker.state.log_history[0]["reward"]
    assert any("eval_reward" in line for line in metrics)

    lines = _read(tmp_path / "run" / "completions.jsonl")
    assert [line["step"] for line in lines if line["phase"] == "train"] == [1] * 4 + [2] * 4 + [3] * 4
    assert len([line for line in lines if line["phase"] == "eval"]) == 8  # after 2 and 3
    by_step = [sum(x["rewards"]["letters"] for x in lines if x["step"] == s and x["phase"] == "train") / 4
               for s in (1, 2, 3)]  # fmt: skip
    assert by_step == pytest.approx([line["reward"] for line in training], abs=1e-5)
    one = next(line for line in lines if line["row_id"] == "r:3")
    assert one["images"] == rows[2]["images"]
    assert one["prompt"] == "<image><image><image>Compare them."
    assert set(one) == {"step", "phase", "row_id", "task", "images", "problem", "prompt", "solution", "completion",
                        "rewards", "weights", "advantage", "n_tokens", "clipped", "image_sizes",
                        "resized_sizes"}  # fmt: skip
    assert one["weights"] == dict.fromkeys(one["rewards"], 1.0)
    assert one["image_sizes"] == [[48, 32], [32, 64], [100, 60]]
    assert one["resized_sizes"] == [[48, 32], [32, 64], [80, 48]]
    ended = [line for line in lines if line["phase"] == "train" and line["step"] == 1]
    assert sum(line["n_tokens"] for line in ended) / 4 == training[0]["completions/mean_length"]
    assert sum(line["clipped"] for line in ended) / 4 == training[0]["completions/clipped_ratio"]
    groups = {}
    for line in lines:
        groups.setdefault((line["step"], line["phase"], line["row_id"]), []).append(line["advantage"])
    assert all(abs(sum(advantages)) < 1e-4 for advantages in groups.values())


def test_files_are_left_alone_where_the_callback_is_removed(trainer, rows, tmp_path):
    worker = trainer(rows)
    worker.remove_callback(worker.jsonl_logger)
    worker.train()
    assert not list(tmp_path.glob("run/*.jsonl"))


def test_a_new_run_puts_the_old_files_apart(tmp_path):
    for number in (1, 2):
        files = JsonlLogger(tmp_path)
        files.on_train_begin(None, _state(0), None)
        files.on_log(None, _state(1), None, logs={"loss": number})
    assert [line["loss"] for line in _read(tmp_path / "metrics.jsonl")] == [2]
    assert [line["loss"] for line in _read(tmp_path / "metrics.old.jsonl")] == [1]


def test_a_resumed_run_drops_what_came_after_the_checkpoint(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    files = JsonlLogger(tmp_path)
    files.on_train_begin(None, _state(2), None)
    files.on_log(None, _state(3), None, logs={"loss": 1.0})
    assert [line["step"] for line in _read(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_evaluations_of_a_finished_run_leave_its_files_and_a_resume_goes_on(trainer, rows, tmp_path):
    settings = dict(save_strategy="steps", save_steps=2, eval_data=rows[:2], per_device_eval_batch_size=2)
    trainer(rows, max_steps=2, **settings).train()
    folder = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    assert set(before) == {"metrics.jsonl", "completions.jsonl"}
    for number in (1, 2):
        result = trainer(rows, **settings).evaluate()
        assert {name: (folder / name).read_bytes() for name in before} == before
        lines = _read(folder / "eval_metrics.jsonl")
        assert len(lines) == number
        assert lines[-1]["eval_reward"] == result["eval_reward"]
        assert len(_read(folder / "eval_completions.jsonl")) == 4 * number
    resumed = trainer(rows, max_steps=3, **settings)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert [line["step"] for line in _read(folder / "metrics.jsonl") if "loss" in line] == [1, 2, 3]
    assert (folder / "completions.jsonl").read_bytes().startswith(before["completions.jsonl"])
    resumed.evaluate()
    assert "eval_reward" in _read(folder / "metrics.jsonl")[-1], "after its own training it is the run's"
    assert not list(folder.glob("*.old.jsonl"))


def test_only_the_first_rank_writes(tmp_path):
    files = JsonlLogger(tmp_path / "x")
    files.on_train_begin(None, _state(0, first=False), None)
    files.on_log(None, _state(1, first=False), None, logs={"loss": 1.0})
    files.write_completions(['{"step": 1}'], _state(1, first=False))
    assert not (tmp_path / "x").exists()


def test_faults_are_a_thousand_lines_at_most(tmp_path):
    files = JsonlLogger(tmp_path)
    for step in range(1, 40):
        files.write_faults([{"kind": "reward", "row_ids": [f"r:{i}"]} for i in range(30)], _state(step))
    assert len(_read(tmp_path / "faults.jsonl")) == 1_000


def test_numbers_that_json_has_not_are_null(tmp_path):
    files = JsonlLogger(tmp_path)
    files.on_train_begin(None, _state(0), None)
    files.on_log(None, _state(1), None, logs={"a": math.nan, "b": -math.inf, "c": {"d": [math.nan, 1.0]}})
    [line] = _read(tmp_path / "metrics.jsonl")
    assert (line["a"], line["b"], line["c"]) == (None, None, {"d": [None, 1.0]})


def test_lines_of_any_row():
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    rows = [{"prompt": "plain"}, {"prompt": turns, "image": Image.new("RGB", (2, 2)), "solution": {"a": [1]}}]
    lines = completion_lines(
        rows, ["x", [{"role": "assistant", "content": "y"}]], {"r": [0.1, math.nan]}, [1.0, -1.0], 4, "eval"
    )
    assert [line["prompt"] for line in lines] == ["plain", "system: Be kind.\nuser: Hi"]
    assert [line["completion"] for line in lines] == ["x", "y"]
    assert [line["images"] for line in lines] == [[], [None]]
    assert lines[1]["solution"] == {"a": [1]}
    assert [line["rewards"] for line in lines] == [{"r": 0.1}, {"r": None}]


def test_a_text_of_two_turns_names_the_roles():
    assert prompt_text([{"role": "user", "content": None}]) == ""


def test_the_bar_shows_the_reward(trainer, rows, capsys):
    evaluation = dict(eval_data=rows[:2], eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=2)
    worker = trainer(rows, disable_tqdm=False, max_steps=2, **evaluation)
    kinds = [type(callback) for callback in worker.callback_handler.callbacks]
    assert RewardProgress in kinds
    assert ProgressCallback not in kinds
    worker.train()
    out, err = capsys.readouterr()
    assert "reward=" in err
    assert "frac_reward_zero_std" not in err
    [line] = [line for line in out.splitlines() if "eval" in line]
    reward = next(line["eval_reward"] for line in worker.state.log_history if "eval_reward" in line)
    assert line.split()[:6] == ["eval", "at", "step", "2", "reward", f"{reward:.3g}"]


def test_without_a_bar_there_is_a_short_line_at_every_log(trainer, rows, capsys):
    evaluation = dict(eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=2)
    sets = {"text": lazily(rows[:1]), "images": lazily(rows[1:2])}
    worker = trainer(rows, disable_tqdm=True, max_steps=2, eval_data=sets, **evaluation)
    kinds = [type(callback) for callback in worker.callback_handler.callbacks]
    assert RewardLines in kinds
    assert PrinterCallback not in kinds
    worker.train()
    printed = capsys.readouterr().out.splitlines()
    results = [line.split()[:6] for line in printed if line.startswith("eval ")]
    assert results == [["eval", name, "at", "step", "2", "reward"] for name in sets]
    lines = [line for line in printed if line.startswith("step ")]
    assert [line.split()[1:3] for line in lines] == [["1/2", "reward"], ["2/2", "reward"]]
    assert all(len(line) < 100 for line in lines)


def test_a_notebook_gets_lines_too():
    assert in_place_of(NotebookProgressCallback) is RewardLines
    assert in_place_of(JsonlLogger) is None


def test_a_bar_of_ones_own_is_kept(trainer, rows):
    class Own(ProgressCallback):
        pass

    worker = trainer(rows, extra={"callbacks": [Own()]})
    assert [type(c) for c in worker.callback_handler.callbacks].count(Own) == 1


def test_files_are_bounded_and_a_resumed_run_cuts_both_parts(tmp_path):
    files = JsonlLogger(tmp_path, most_mb=0.0003)
    files.on_train_begin(None, _state(0), None)
    for step in range(1, 40):
        files.write_completions([as_json({"step": step, "completion": "x" * 20})], _state(step - 1))
    path, before = tmp_path / "completions.jsonl", tmp_path / "completions.1.jsonl"
    assert path.stat().st_size <= 300
    assert before.stat().st_size <= 300
    steps = [line["step"] for line in (*_read(before), *_read(path))]
    assert steps == list(range(steps[0], 40))
    JsonlLogger(tmp_path, most_mb=0.0003).on_train_begin(None, _state(steps[1]), None)
    assert [line["step"] for line in _read(before)] == steps[:2]
    assert _read(path) == []
