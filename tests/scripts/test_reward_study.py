"""scripts/reward_study.py: how it judges, and a small run through it."""

import json
import subprocess
from pathlib import Path

import pytest
from forked import environment, python

from scripts.reward_study_judges import MEASURES, judge
from scripts.reward_study_page import gather

ROOT = Path(__file__).parents[2]
CAPTION = {
    "task": "caption",
    "problem": "Describe the picture.",
    "solution": ["a red circle above a blue star", "a blue star below a red circle"],
}


def judged(answer: str) -> dict[str, float]:
    return judge(CAPTION | {"completion": f"<think>so</think><answer>{answer}</answer>"})


@pytest.mark.parametrize(
    ("answer", "right", "named", "false"),
    [
        ("a blue star below a red circle", 1, 1, 0),
        ("A red circle above a blue star.", 1, 1, 0),
        ("a red circle and a blue star", 0, 1, 0),
        ("a red circle below a blue star", 0, 1, 1),
        ("a blue star above a red circle", 0, 1, 1),
        ("a red circle above a blue star above a red circle", 0, 1, 1),
        ("a red circle above a blue star and a green square", 0, 0, 1),
        ("a red star above a blue circle", 0, 0, 1),
        ("a circle above a blue star", 0, 0, 0),
        ("a red circle", 0, 0, 0),
        ("red circle blue star above below a a", 0, 1, 0),
        ("", 0, 0, 0),
    ],
)
def test_facts_of_a_caption(answer, right, named, false):
    found = judged(answer)
    assert (found["right"], found["named"], found["false"]) == (right, named, false)
    assert list(found) == list(MEASURES)
    assert all(0 <= value <= 1 for name, value in found.items() if name != "words")


def test_metrics_are_blind_where_the_facts_are_not():
    """What the study is about: a swapped relation costs words little."""
    swapped = judged("a red circle below a blue star")
    assert min(swapped[name] for name in ("bleu", "rouge", "meteor", "original", "chrf")) > 0.5
    assert swapped["right"] == 0
    assert all(judged(CAPTION["solution"][1])[name] == 1 for name in ("exact", "bleu", "rouge", "meteor", "cider"))


@pytest.mark.parametrize(
    ("answer", "right", "false", "echo"),
    [
        ("Blue Door is a cheap Thai restaurant near the river.", 1, 0, 0),
        ("Near the river, Blue Door serves cheap Thai food.", 1, 0, 0),
        ("Blue Door is a Thai restaurant near the river.", 0, 0, 0),
        ("Blue Door is a cheap Thai and Greek restaurant near the river.", 0, 1, 0),
        ("restaurant | name: Blue Door | food: Thai | price: cheap | near: the river", 0, 0, 1),
        ("restaurant | Blue Door | Thai | cheap | the river", 0, 0, 1),
    ],
)
def test_facts_of_a_sentence(answer, right, false, echo):
    asked = "Write one short sentence that tells these facts. restaurant | name: Blue Door | food: Thai | price: cheap"
    reference = "Blue Door is a cheap Thai restaurant near the river."
    line = {"task": "restaurant", "problem": f"{asked} | near: the river", "solution": [reference]}
    found = judge(line | {"completion": answer}, tags=False)
    assert (found["right"], found["false"], found["echo"]) == (right, false, echo)


def test_a_small_run_is_kept_judged_and_not_run_again(tmp_path):
    command = [python(), "scripts/reward_study.py", "--folder", str(tmp_path), "--only", "shapes/bleu/0"]
    command += ["--setting", "max_steps", "2", "--setting", "per_device_train_batch_size", "8", "--rows", "16", "8"]

    def start() -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return done.stdout

    assert "shapes/bleu/0:" in start()
    [file] = tmp_path.glob("*.json")
    assert "shapes/bleu/0:" not in start()
    assert len(json.loads(file.read_text())["answers"]) == 8
    run = gather(tmp_path)["shapes/bleu/0"]
    assert {kind: len(one) for kind, one in run["right"].items()} == {"captions": 4, "answers": 4}
    assert run["scores"]["captions"]["right"] == run["right"]["captions"].count("1") / 4
    assert [step for step, _ in run["curves"]["judge"]] == [2]
