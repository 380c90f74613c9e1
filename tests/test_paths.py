"""Every command, with a wrong path in each of its path arguments in turn: no byte of what was there changes."""

import hashlib
import json
from pathlib import Path

import pytest

from omnirl_core.yaml_loader import ConfigError
from omnirl_tools import evaluate, run, sft
from omnirl_tools.cli import main
from recipes.text_only import prepare_facts as facts
from recipes.text_only import prepare_smollm2 as smollm2

ROWS = [{"problem": "Color?", "solution": "red"}, {"problem": "Sum?", "solution": 3}]
RECIPE = """\
output_dir: outputs/demo
model_name_or_path: tiny_policy
draw_shapes: {task: text_only, train: 6, test: 4, seed: 0}
dataset_name: data/shapes/train.json
eval_dataset_name: data/shapes/test.json
rewards: rewards.yaml
use_cpu: true
bf16: false
"""
LINE = {
    "row_id": "a:1",
    "rewards": {"exact": 1.0},
    "weights": {"exact": 1.0},
    "score": 1.0,
    "completion": "red",
}

TYPO, FILE, FOLDER = "mydata/trian.json", "mydata/train.json", "mydata"
"""A misspelt path; for what is written, a file and a folder of the user's own."""
CONFIG = ["--config", "recipe.yaml"]
OWN = ["--dataset_name", "mydata/train.json", "--eval_dataset_name", "mydata/test.json"]
RUNS = {
    "config": ["recipe.yml", FOLDER], "dataset_name": [TYPO, FOLDER], "eval_dataset_name": [TYPO, FOLDER],
    "rewards": ["reward.yaml", FILE], "image_root": ["mydata/imgs", FILE],
    "model_name_or_path": ["./tiny", FOLDER, FILE], "output_dir": [FILE, FOLDER],
    "resume_from_checkpoint": ["outputs/nothing", FOLDER],
}  # fmt: skip
"""Path argument of recipes/*.py -> wrong paths."""


def of_a_run(start, *names: str) -> list:
    settings = RUNS if not names else {name: RUNS[name] for name in names}
    return [
        (start, ["--config", wrong] if name == "config" else [*CONFIG, *OWN, f"--{name}", wrong])
        for name, paths in settings.items()
        for wrong in paths
    ]


CASES = [
    *of_a_run(run.main),
    *of_a_run(sft.main, "config", "dataset_name", "image_root", "model_name_or_path", "output_dir"),
    *of_a_run(evaluate.main, "config", "eval_dataset_name", "rewards", "image_root"),
    (evaluate.main, [*CONFIG, *OWN[2:], "--completions", "answer.jsonl"]),
    (evaluate.main, [*CONFIG, *OWN[2:], "--protocol", "vlmr1", "--annotations", TYPO]),
    (main, ["check-data", "recipe.yml"]),
    (main, ["check-data", TYPO]),
    (main, ["check-data", FILE, "--eval_dataset_name", TYPO]),
    (main, ["check-data", FILE, "--image_root", FILE]),
    (main, ["check-data", FILE, "--report", FILE]),
    (main, ["check-data", "recipe.yaml", "--dataset_name", TYPO]),
    (main, ["check-data", "recipe.yaml", "--eval_dataset_name", TYPO]),
    (main, ["check-data", "recipe.yaml", "--report", "notes.txt"]),
    (main, ["check-rewards", "recipe.yml"]),
    (main, ["check-rewards", "recipe.yaml", "--dataset_name", TYPO]),
    (main, ["check-rewards", "recipe.yaml", *OWN, "--rewards", "reward.yaml"]),
    (main, ["check-rewards", "recipe.yaml", *OWN, "--model_name_or_path", "./tiny"]),
    (main, ["check-rewards", "recipe.yaml", *OWN, "--report", "notes.txt"]),
    (main, ["estimate-memory", "recipe.yml"]),
    (main, ["estimate-memory", "recipe.yaml", "--model_name_or_path", "./tiny"]),
    (main, ["estimate-memory", "recipe.yaml", "--accelerate_config", "cpu.yml"]),
    (main, ["doctor", "recipe.yml"]),
    (main, ["compare", "run/before.jsonl", "run/aftr.jsonl"]),
    (main, ["compare", "run/bfore.jsonl", "run/after.jsonl"]),
    (main, ["compare", "run/before.jsonl", "run/after.jsonl", "--html", FILE]),
    (main, ["report", "rnu"]),
    (main, ["report", "mydata"]),
    (main, ["report", "run", "--out", FILE]),
    (facts.main, ["--out", FOLDER]),
    (facts.main, ["--out", FILE]),
    (smollm2.main, ["--out", FOLDER]),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working folder with a recipe, a run, data and notes of the user's own."""
    folder = tmp_path_factory.mktemp("place")
    files = {
        "recipe.yaml": RECIPE, "rewards.yaml": "rewards:\n- {name: think_format, weight: 0.2}\n- {name: exact}\n",
        "mydata/train.json": json.dumps(ROWS), "mydata/test.json": json.dumps(ROWS), "mydata/config.json": "{}",
        "mydata/train/0000000-0.png": "mine", "notes.txt": "not to be lost\n",
        "answers.jsonl": json.dumps({"completion": "red"}) + "\n", "run/run.json": "{}",
        "run/before.jsonl": json.dumps(LINE) + "\n", "run/after.jsonl": json.dumps(LINE) + "\n",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("command", "argv"),
    CASES,
    ids=[f"{start.__module__.split('.')[-1]} {' '.join(argv[-3:])}" for start, argv in CASES],
)
def test_a_wrong_path_is_refused_and_changes_no_file(place, monkeypatch, command, argv):
    monkeypatch.chdir(place)
    before = tree(place)
    try:
        ended = command(argv)
    except (ConfigError, ValueError, OSError) as error:
        ended = str(error)
    except SystemExit as error:
        ended = error.code
    assert ended not in (0, None)
    now = tree(place)
    assert {name: now.get(name) for name in before} == before
    assert not (place / "data").exists(), "no data is drawn"
