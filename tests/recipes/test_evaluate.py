"""`recipes/evaluate.py`: what it writes, how it goes on after a kill, on two processes, and on what can answer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from forked import environment, python
from peft import LoraConfig, get_peft_model

from omnirl_core.models import load_policy, load_processor
from omnirl_core.shapes import tiny_policy, write_dataset
from omnirl_core.yaml_loader import read_config
from omnirl_tools.evaluate_arguments import parse_evaluation
from omnirl_tools.evaluation.lines import read_lines, write_lines
from recipes.evaluate import main

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
ROWS = 21


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("data"), "mixed", ROWS, 0, "test"))


@pytest.fixture(scope="module")
def settings(data) -> list[str]:
    """What every run of this file shares: the demo's YAML on other rows."""
    return [
        "--config", "recipes/mixed/demo.yaml", "--eval_dataset_name", data, "--draw_shapes", "null",
        "--per_device_eval_batch_size", "4",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> tuple[Path, str]:
    """The folder of one evaluation, started as a user does but for forks, and everything that it printed."""
    folder = tmp_path_factory.mktemp("whole")
    launch = [python(), "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    program = ["--no_python", python(), "recipes/evaluate.py"]
    command = [*launch, *program, *settings, "--output_dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "evaluation" / "tiny_policy", done.stdout


def test_it_writes_predictions_and_metrics(whole, data):
    folder, printed = whole
    lines = read_lines(folder / "predictions.jsonl")
    assert [line["row_id"] for line in lines] == [f"{data}:{number}" for number in range(2, ROWS + 2)]
    assert {line["modality"] for line in lines} == {"text", "image", "multi-image"}
    assert all("overlap" in line for line in lines if line["task"] == "caption")
    facts = json.loads((folder / "metrics.json").read_text())
    assert (facts["n"], facts["processes"], facts["max_new_tokens"], facts["temperature"]) == (
        ROWS,
        1,
        48,
        0.0,
    )
    assert len(facts["prompt_hash"]) == 16
    score = facts["scores"]["score"]["all"]["all"]
    assert score["mean"] == pytest.approx(sum(line["score"] for line in lines) / ROWS)
    assert score["low"] < score["mean"] < score["high"]
    assert facts["clipped_rate"] == sum(line["clipped"] for line in lines) / ROWS
    assert 0 < facts["parse_failure_rate"] < 1
    assert facts["overlap"]["n"] == sum(line["task"] == "caption" for line in lines)
    assert {"torch", "transformers", "trl"} <= set(facts["versions"])
    for word in ("score", "modality multi-image", "could not be read", str(folder / "metrics.json")):
        assert word in printed


def run(settings: list[str], folder: Path, *more: str) -> list[dict]:
    main([*settings, "--evaluation_dir", str(folder), *more])
    return read_lines(folder / "predictions.jsonl")


def test_a_second_start_asks_nothing_again_and_judges_anew(whole, settings, tmp_path, monkeypatch):
    rewards = tmp_path / "rewards.yaml"
    rewards.write_text("rewards:\n  - {name: think_format, weight: 2.0}\n")
    monkeypatch.setattr("omnirl_tools.evaluate.load_trained", lambda *a, **k: pytest.fail("no model is needed"))
    folder = whole[0]
    before = (folder / "generations.jsonl").read_bytes()
    kept = (folder / "predictions.jsonl").read_bytes()
    lines = run(settings, folder, "--rewards", str(rewards))
    assert {line["score"] for line in lines} == {0.0, 1.0}
    assert (folder / "generations.jsonl").read_bytes() == before
    run(settings, folder)
    assert (folder / "predictions.jsonl").read_bytes() == kept


@pytest.mark.parametrize("cut", [2, 40])
def test_what_a_kill_leaves_is_continued(whole, settings, tmp_path, cut):
    """Two ranks were killed: their files hold some lines each, the last of them torn."""
    folder, _ = whole
    lines = (folder / "generations.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "settings.json").write_bytes((folder / "settings.json").read_bytes())
    (tmp_path / "generations.rank0.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:-cut])
    (tmp_path / "generations.rank1.jsonl").write_bytes(b"".join(lines[8:11]) + lines[11][:cut])
    assert run(settings, tmp_path) == read_lines(folder / "predictions.jsonl")
    again = (tmp_path / "generations.jsonl").read_bytes().splitlines(keepends=True)
    assert again[:8] == [*lines[:5], *lines[8:11]]
    assert sorted(again) == sorted(lines)
    assert not list(tmp_path.glob("generations.rank*"))


@pytest.mark.slow
def test_killed_on_one_process_and_continued_on_two_equals_uninterrupted(whole, settings, tmp_path):
    command = ["recipes/evaluate.py", *settings, "--evaluation_dir", str(tmp_path)]
    one_by_one = [sys.executable, *command, "--per_device_eval_batch_size", "1"]
    first = subprocess.Popen(one_by_one, cwd=ROOT, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while len(read_lines(tmp_path / "generations.rank0.jsonl")) < 3:
            assert first.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline, "no answer came"
            time.sleep(0.02)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert not (tmp_path / "predictions.jsonl").exists()
    launch = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    given = environment(ACCELERATE_USE_CPU="true")
    done = subprocess.run([*launch, *command], cwd=ROOT, env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"of {ROWS} rows are answered already" in done.stdout
    assert json.loads((tmp_path / "metrics.json").read_text())["processes"] == 2
    assert read_lines(tmp_path / "predictions.jsonl") == read_lines(whole[0] / "predictions.jsonl")


def test_other_settings_begin_anew_and_kept_apart_what_was_there(whole, settings, tmp_path, capsys):
    for name in ("generations.jsonl", "settings.json"):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    lines = run(settings, tmp_path, "--max_completion_length", "3", "--eval_rows", "4")
    assert all(line["n_tokens"] <= 3 for line in lines)
    assert "max_new_tokens" in capsys.readouterr().out
    assert (tmp_path / "generations.old.jsonl").read_bytes() == (whole[0] / "generations.jsonl").read_bytes()


def test_ready_completions_are_judged_alike_without_a_model(whole, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("omnirl_tools.evaluate.load_trained", lambda *a, **k: pytest.fail("no model is needed"))
    known = read_lines(whole[0] / "predictions.jsonl")
    reported = ("rewards", "score", "image_sizes", "resized_sizes", "completion")
    expected = [{name: line[name] for name in reported} for line in known]
    plain = [{"completion": line["completion"]} for line in known]
    named = [{"row_id": line["row_id"], **made} for line, made in zip(known, plain, strict=True)][::-1]
    (tmp_path / "named.json").write_text(json.dumps(named))
    for file in (whole[0] / "predictions.jsonl", write_lines(tmp_path / "plain.jsonl", plain), "named.json"):
        lines = run(settings, tmp_path / "out", "--completions", str(tmp_path / file))
        assert [{name: line[name] for name in reported} for line in lines] == expected
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert facts["model"] is None
    assert facts["completions"] == str(tmp_path / "named.json")


def test_an_adapter_and_a_checkpoint_answer_as_they_were_trained(whole, settings, tmp_path):
    base = load_policy(tiny_policy())
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.normal_(0, 0.3)
    base.config._name_or_path = tiny_policy()
    adapted.peft_config["default"].base_model_name_or_path = tiny_policy()
    adapted.save_pretrained(tmp_path / "adapter")
    merged = tmp_path / "run" / "checkpoint-7"
    adapted.merge_and_unload().save_pretrained(merged)
    load_processor(tiny_policy()).save_pretrained(merged)
    answers = {}
    for name in ("adapter", "run/checkpoint-7"):
        more = ("--model_name_or_path", str(tmp_path / name), "--output_dir", str(tmp_path / "out"))
        facts = main([*settings, *more, "--eval_rows", "8"])
        folder = tmp_path / "out" / "evaluation" / name.replace("/", "--")
        answers[name] = [line["completion"] for line in read_lines(folder / "predictions.jsonl")]
        assert facts["decoding"]["weights"]
    untrained = [line["completion"] for line in read_lines(whole[0] / "predictions.jsonl")][:8]
    assert answers["adapter"] == answers["run/checkpoint-7"]
    assert answers["adapter"] != untrained


def test_sampled_answers_depend_on_the_seed_alone(settings, tmp_path):
    def texts(folder: str, seed: str, batch: str) -> list[str]:
        more = ("--eval_temperature", "1.0", "--seed", seed, "--per_device_eval_batch_size", batch)
        return [line["completion"] for line in run(settings, tmp_path / folder, "--eval_rows", "7", *more)]

    assert texts("a", "1", "7") == texts("b", "1", "3")
    assert texts("a", "1", "7") != texts("c", "2", "7")


def test_rec_protocols_are_reached_by_a_setting(tmp_path):
    data = write_dataset(tmp_path / "data", "boxes", 6, 0, "test")
    for protocol, limit in (("robust", 1024), ("vlmr1-2025-06", 256), ("vlmr1-2025-02", 256)):
        rows = json.loads(Path(data).read_text())
        said = [{"completion": f"<think>a</think><answer>{{{row['solution']}}}</answer>"} for row in rows]
        places = sorted(range(6)) if protocol == "robust" else _shuffled(6)
        completions = write_lines(tmp_path / "said.jsonl", [said[place] for place in places])
        facts = main([
            "--protocol", protocol, "--annotations", str(data), "--box_space", "pixels",
            "--completions", str(completions), "--evaluation_dir", str(tmp_path / protocol), "--use_cpu",
        ])  # fmt: skip
        assert facts["rec"]["test"]["acc@0.5"] == 1.0
        assert facts["rec"]["test"]["mean_iou"] == 1.0
        assert (facts["protocol"], facts["max_new_tokens"], facts["box_space"]) == (protocol, limit, "pixels")
        assert facts["parse_failure_rate"] == 0.0
        (line,) = {tuple(line["rewards"].items()) for line in read_lines(tmp_path / protocol / "predictions.jsonl")}
        assert dict(line)["acc@0.5"] == 1.0


def _shuffled(n: int) -> list[int]:
    import random

    places = list(range(n))
    random.Random(42).shuffle(places)
    return places


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rewards", "recipes/mixed/rewards.yaml"], "no rows to evaluate on"),
        (["--eval_dataset_name", "x.json"], "nothing to judge by"),
        (["--config", "recipes/mixed/demo.yaml", "--max_steps", "3"], "--max_steps is a setting of training"),
        (["--config", "recipes/mixed/demo.yaml", "--temperature", "1"], "eval_temperature"),
        (["--config", "recipes/mixed/demo.yaml", "--evl_rows", "1"], "did you mean 'eval_rows'"),
        (["--config", "recipes/mixed/demo.yaml", "--box_space", "pixels"], "with a protocol only"),
        (["--config", "recipes/mixed/demo.yaml", "--eval_rows", "0"], "eval_rows 0 is not"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_is_loaded(arguments, said):
    with pytest.raises(ValueError, match=said):
        main(arguments)


RECIPES = [
    path
    for path in sorted(ROOT.glob("recipes/*/*.yaml"))
    if {"dataset_name", "model_name_or_path", "rewards"} <= set(read_config(path))
]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_recipe_can_be_evaluated(path):
    arguments, model = parse_evaluation(["--config", str(path), "--eval_dataset_name", "mine.json"])
    assert arguments.rewards
    assert Path(arguments.rewards).exists()
    assert model.model_name_or_path
    assert arguments.eval_temperature == 0


def test_a_key_that_nothing_knows_is_named(tmp_path):
    config = read_config("recipes/mixed/demo.yaml") | {"eval_row": 3}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"a\.yaml:[0-9]+: unknown setting 'eval_row'; did you mean 'eval_rows'"):
        main(["--config", str(tmp_path / "a.yaml")])
