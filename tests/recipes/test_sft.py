"""The warm start: the loss falls on rows of every modality, and GRPO starts from what was saved."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from omnirl_core.data import DataError, load_dataset
from omnirl_core.models import load_policy
from omnirl_core.shapes import tiny_policy, write_dataset
from omnirl_core.yaml_loader import ConfigError
from omnirl_tools import samples, warm_start
from omnirl_tools import sft as of_sft
from omnirl_tools.sft import ResponseTransform
from recipes import sft as recipe
from recipes.grpo import main as grpo
from recipes.sft import main as sft

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("data"), "mixed", 112, 0))


def options(**settings) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


@pytest.mark.slow
def test_the_loss_falls_and_grpo_starts_from_it(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    few = dict(max_steps=20, per_device_train_batch_size=14, logging_steps=5)
    taught = tmp_path / "sft"
    own = dict(dataset_name=rows, eval_dataset_name=rows, eval_rows=14, output_dir=taught)
    trainer = sft(options(config="recipes/mixed/sft.yaml", **own, **few))
    shown = capsys.readouterr()
    assert "'loss'" not in shown.out + shown.err, "raw dictionaries"
    assert "loss=" in shown.err, "the bar"
    table = shown.out.split("Held-out rows, greedy, before and after training")[1]
    assert re.search(r"think_format +14 +0\.\d+ +(0\.9|1\.0)", table)
    assert (taught / "completions.html").stat().st_size > 10_000
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    few = dict(max_steps=1, per_device_train_batch_size=16, eval_rows=14)
    data = dict(dataset_name=rows, eval_dataset_name=rows, output_dir=tmp_path / "grpo")
    result = grpo(options(config="recipes/mixed/demo.yaml", model_name_or_path=taught, **data, **few))
    form = next(change for change in result.changes if change.measure == "think_format")
    assert form.before > 0.9, "what was taught is there when GRPO begins"


def test_a_checkpoint_that_is_not_there_is_said_before_a_model_loads(rows, tmp_path, monkeypatch):
    own = dict(model_name_or_path="tiny_policy", dataset_name=rows, output_dir=tmp_path / "run", use_cpu=True)
    said = "resume_from_checkpoint: .*checkpoint-9 cannot be resumed: it does not exist"
    monkeypatch.setattr(recipe, "build", pytest.fail)
    with pytest.raises(ConfigError, match=said):
        sft(options(resume_from_checkpoint=tmp_path / "checkpoint-9", bf16=False, **own))


def test_a_warm_start_goes_on_from_its_newest_checkpoint(rows, tmp_path, capsys):
    own = dict(model_name_or_path="tiny_policy", dataset_name=rows, output_dir=tmp_path / "run", use_cpu=True)
    few = dict(bf16=False, per_device_train_batch_size=2, save_steps=1, templates='{"default": "plain"}')
    whole = sft(options(resume_from_checkpoint="auto", max_steps=2, **own, **few))
    assert "No checkpoint to resume from: starting anew" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    resumed = sft(options(resume_from_checkpoint="auto", max_steps=2, **own, **few))
    shown = capsys.readouterr()
    assert f"Resuming from {tmp_path}/run/checkpoint-1" in shown.out
    assert "missing keys" not in shown.err
    for (name, weight), again in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(weight, again), name


def test_grpo_starts_from_a_warm_start_with_lora(rows, tmp_path, capsys):
    own = dict(dataset_name=rows, use_cpu=True, bf16=False, templates='{"default": "plain"}', save_strategy="no")
    few = dict(max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, use_peft=True)
    lora = dict(model_name_or_path="tiny_policy", lora_target_modules="all-linear", output_dir=tmp_path / "sft")
    adapted = sft(options(**own, **few, **lora)).model.eval()
    merged = tmp_path / "sft" / "merged"
    assert f"start GRPO from it with --model_name_or_path {merged}\n" in capsys.readouterr().out
    tokens = torch.arange(40, 60)[None]
    with torch.no_grad():
        expected, plain = adapted(tokens).logits, load_policy(tiny_policy())(tokens).logits
        assert torch.allclose(load_policy(str(merged))(tokens).logits, expected, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2), "the adapter does nothing"
    with pytest.raises(ConfigError, match=f"holds an adapter, which is merged into its model in {merged}"):
        grpo(options(model_name_or_path=tmp_path / "sft", output_dir=tmp_path / "no", **own))
    few = dict(max_steps=1, per_device_train_batch_size=8, rewards=ROOT / "recipes/mixed/rewards.yaml")
    result = grpo(options(model_name_or_path=merged, output_dir=tmp_path / "grpo", **own, **few))
    assert result.trainer.state.global_step == 1


def test_a_warm_start_that_may_end_early_reads_its_samples_once(rows, tmp_path, monkeypatch):
    read = []
    plain = samples.read_rows
    for module in (samples, recipe, warm_start, of_sft):
        if hasattr(module, "read_rows"):
            monkeypatch.setattr(module, "read_rows", lambda *asked: (read.append(asked[1]), plain(*asked))[1])
    few = dict(max_steps=1, per_device_train_batch_size=2, stop_at_accuracy=1.0, use_cpu=True, bf16=False)
    own = dict(
        model_name_or_path="tiny_policy", templates='{"default": "plain"}', rewards=ROOT / "recipes/mixed/rewards.yaml"
    )
    sft(options(dataset_name=rows, output_dir=tmp_path / "run", save_strategy="no", **own, **few))
    assert read == [rows]


def test_a_language_model_learns_rows_of_text(tiny_text_checkpoint, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"problem": f"Say {n}.", "solution": n} for n in range(8)]))
    few = dict(use_cpu=True, bf16=False, max_steps=2, save_strategy="no", output_dir=tmp_path / "run")
    trainer = sft(options(model_name_or_path=tiny_text_checkpoint, dataset_name=tmp_path / "rows.json", **few))
    assert trainer.state.global_step == 2
    assert not list((tmp_path / "run").glob("*.jsonl")), "no held-out rows, no table"
    assert "labels" in trainer.train_dataset.column_names


@pytest.mark.parametrize(("least", "steps"), [(0.05, 2), (1.0, 4)])
def test_it_stops_where_enough_is_right(least, steps, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(warm_start, "LOOK_EVERY", 2)
    few = dict(max_steps=4, per_device_train_batch_size=4, dataset_name=rows, output_dir=tmp_path)
    trainer = sft(options(config="recipes/mixed/sft.yaml", eval_rows=1, stop_at_accuracy=least, **few))
    assert trainer.state.global_step == steps
    assert ("Stopped after step 2 of 4: accuracy 0." in capsys.readouterr().out) == (steps == 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(stop_at_accuracy=0.5), "stop_at_accuracy: needs rewards"),
        (dict(stop_at_accuracy=50), "stop_at_accuracy: 50 is no accuracy; set it above 0, up to 1"),
    ],
)
def test_where_it_cannot_stop(settings, message, tiny_text_checkpoint, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"problem": "Say 1.", "solution": 1}] * 8))
    few = dict(use_cpu=True, bf16=False, max_steps=1, save_strategy="no", output_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        sft(options(model_name_or_path=tiny_text_checkpoint, dataset_name=tmp_path / "rows.json", **few, **settings))


def test_what_is_said(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    lines = [
        {"problem": "Where?", "solution": [10, 10, 30, 30], "image": "a.png", "why": "it is there"},
        {"problem": "Say it.", "solution": ["one", "two"], "why": "the first"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(lines))
    data = load_dataset(tmp_path / "rows.json")
    drawn = data.format["format_kwargs"]["transform"]
    template = "<think>{why}</think><answer>{solution}</answer>"

    def said(**settings):
        rows = data.with_transform(ResponseTransform(drawn, **{"template": template, **settings}))
        return [row["completion"][0]["content"][0]["text"] for row in rows]

    doubled = said(space="resized", resize=lambda size: (size[0] * 2, size[1] * 2))
    assert doubled == [
        "<think>it is there</think><answer>[20, 20, 60, 60]</answer>",
        "<think>the first</think><answer>one</answer>",
    ]
    assert said(space="0-1000")[0].endswith("<answer>[250, 250, 750, 750]</answer>")
    with pytest.raises(DataError, match=r"rows.json:\d+: the response template names 'reason'.* it has prompt"):
        said(template="{reason} {solution}")
