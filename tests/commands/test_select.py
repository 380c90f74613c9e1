"""Samples by how often a policy solves them: from an evaluation with several answers to a run in that order."""

import json

import pytest
import yaml

from omnirl_core.data import DataError, load_dataset
from omnirl_core.shapes import write_dataset
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_tools.cli import main
from omnirl_tools.cli import main as omnirl
from omnirl_tools.evaluate_arguments import parse_evaluation
from omnirl_tools.evaluation.lines import read_lines, write_lines
from omnirl_tools.evaluation.pass_rates import histogram, pass_rates
from recipes.evaluate import main as evaluate


def options(**settings):
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def test_a_rate_is_of_the_answers_of_one_sample():
    samples = [{"problem": text, "solution": 1, "row_id": f"x:{i}", "extra": None} for i, text in enumerate("aab")]
    asked = [samples[0], samples[0], samples[1], samples[1], samples[2], samples[2]]
    scores = [1.0, 0.0, 0.0, 0.0, None, None]
    lines = [{"rewards": {"exact": one}, "weights": {"exact": 1.0}, "score": one} for one in scores]
    assert pass_rates(asked, lines) == [
        {"problem": "a", "solution": 1, "pass_rate": 0.5, "n_answers": 2, "from": "x:0"},
        {"problem": "a", "solution": 1, "pass_rate": 0.0, "n_answers": 2, "from": "x:1"},
    ]


def test_the_histogram_counts_each_once():
    text = histogram([0.0, 0.3, 0.3, 0.95, 1.0], 0.1, 0.96)
    counts = [line.split() for line in text.splitlines()]
    assert [int(words[3]) for words in counts] == [1, 0, 0, 2, 0, 0, 0, 0, 0, 2]
    assert [set(words[4]) if len(words) > 4 else set() for words in counts] == [
        {"-"}, set(), set(), {"*"}, set(), set(), set(), set(), set(), {"*"},
    ]  # fmt: skip


@pytest.fixture
def rates(tmp_path):
    """Pass rates of drawn samples, images and text, as an evaluation leaves them."""
    rows = list(load_dataset(str(write_dataset(tmp_path / "data", ["text", "color"], 6, 0))))
    values = [0.0, 1.0, 0.25, 0.5, 0.75, 0.5]
    samples = [row for row in rows for _ in range(4)]
    scores = [float(k < 4 * value) for value in values for k in range(4)]
    lines = [{"rewards": {"exact": one}, "weights": {"exact": 1.0}, "score": one} for one in scores]
    write_lines(tmp_path / "evaluation" / "pass_rates.jsonl", pass_rates(samples, lines))
    return tmp_path / "evaluation"


def test_a_curriculum_is_trained_on_from_easy_to_hard(rates, tmp_path, capsys, tiny_checkpoint):
    mixture = tmp_path / "chosen" / "some.yaml"
    assert omnirl(["select", str(rates), str(mixture), "--low", "0.2", "--high", "0.8", "--curriculum"]) == 0
    assert "4 of 6 samples kept" in capsys.readouterr().out
    data = load_dataset(str(mixture))
    assert [row["pass_rate"] for row in data] == [0.75, 0.5, 0.5, 0.25]
    mapping = {"problem": "question", "solution": "answer"}  # of the data that they were chosen from
    assert [row["problem"] for row in load_dataset(str(mixture), columns=mapping)] == [row["problem"] for row in data]
    original = {row["problem"]: row for row in load_dataset(str(tmp_path / "data" / "train.json"))}
    for row in data:
        same = original[row["problem"]]
        assert {name: row[name] for name in ("prompt", "images", "solution", "task")} == {
            name: same[name] for name in ("prompt", "images", "solution", "task")
        }
    config = OmniGRPOConfig(
        str(tmp_path / "run"), use_cpu=True, bf16=False, report_to="none", num_generations=2,
        per_device_train_batch_size=2, max_completion_length=2,
    )  # fmt: skip
    trainer = OmniGRPOTrainer(tiny_checkpoint, lambda completions, **_: [0.0] * len(completions), config, data)
    drawn = [batch[0]["pass_rate"] for batch in trainer.get_train_dataloader()]
    assert drawn == [0.75, 0.5, 0.5, 0.25]

    assert omnirl(["select", str(rates), str(mixture)]) == 2
    assert "there already" in capsys.readouterr().err
    assert omnirl(["select", str(rates), str(tmp_path / "none.yaml"), "--low", "0.8", "--high", "0.9"]) == 2
    assert "widen --low and --high" in capsys.readouterr().err
    assert omnirl(["select", str(rates), str(tmp_path / "plain.yaml")]) == 0
    assert "order" not in yaml.safe_load((tmp_path / "plain.yaml").read_text())


def test_an_order_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"problem": "?", "solution": 1}]))
    mixture = tmp_path / "mix.yaml"
    mixture.write_text("order: curriculum\ndatasets:\n  - json_path: rows.json\n")
    with pytest.raises(DataError, match=r"rows\.json:1: no number as 'pass_rate', by which `order: curriculum` sorts"):
        load_dataset(str(mixture))
    mixture.write_text("order: hard\ndatasets:\n  - json_path: rows.json\n")
    with pytest.raises(DataError, match=r"mix\.yaml:1: order 'hard' is not 'curriculum'"):
        load_dataset(str(mixture))


def test_an_evaluation_with_several_answers(tmp_path):
    data = write_dataset(tmp_path / "data", "text", 3, 0)
    (tmp_path / "rewards.yaml").write_text("rewards:\n  - {name: exact, weight: 1.0}\n")
    given = dict(
        model_name_or_path="tiny_policy", eval_dataset_name=data, rewards=tmp_path / "rewards.yaml", use_cpu="true",
        templates='{"default": "plain"}', max_completion_length=40, evaluation_dir=tmp_path / "out",
    )  # fmt: skip
    facts = evaluate(options(**given, num_samples=4, eval_temperature=1.0))
    assert facts["n"] == 3
    found = read_lines(tmp_path / "out" / "pass_rates.jsonl")
    assert [row["n_answers"] for row in found] == [4, 4, 4]
    answers = {line["completion"] for line in read_lines(tmp_path / "out" / "generations.jsonl")}
    assert len(answers) > 3, "each answer has its own draw"
    with pytest.raises(ValueError, match="num_samples above 1 is not supported with greedy answers; set eval_temp"):
        parse_evaluation(options(**given, num_samples=4))


@pytest.mark.parametrize("rate", ["NaN", "1.5", '"half"'])
def test_what_is_no_rate_is_no_sample(rate, tmp_path, capsys):
    (tmp_path / "rates.jsonl").write_text(f'{{"problem": "a", "solution": 1, "pass_rate": {rate}}}\n')
    assert main(["select", str(tmp_path / "rates.jsonl"), str(tmp_path / "mix.yaml")]) == 2
    assert "no pass rates; evaluate with --num_samples 8" in capsys.readouterr().err
