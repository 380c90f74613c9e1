"""Every command, with a wrong path in each of its path arguments in turn: no byte of what was there changes."""

import argparse
import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from tiny_models import DEMO

from omnirl_core import launch
from omnirl_core.yaml_loader import ConfigError
from omnirl_tools.cli import main
from omnirl_tools.commands import COMMANDS
from recipes import evaluate, grpo, sft
from recipes.text_only import prepare_facts as facts
from recipes.text_only import prepare_smollm2 as smollm2
from scripts import build_tiny_policy, build_tiny_reader

ROOT = Path(__file__).parents[2]
ROWS = [{"problem": "Color?", "solution": "red"}, {"problem": "Sum?", "solution": 3}]
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
    "model_name_or_path": ["./tiny", FOLDER, FILE], "output_dir": [FILE, FOLDER, f"{FILE}/run"],
    "resume_from_checkpoint": ["outputs/nothing", FOLDER], "deepspeed": ["zero3.jsn"],
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
    *of_a_run(grpo.main),
    *of_a_run(sft.main, "config", "dataset_name", "image_root", "model_name_or_path", "output_dir"),
    *of_a_run(evaluate.main, "config", "eval_dataset_name", "rewards", "image_root"),
    *[(evaluate.main, [*CONFIG, *OWN[2:], "--model_name_or_path", wrong]) for wrong in ("./tiny", FOLDER, FILE)],
    *[(evaluate.main, [*CONFIG, *OWN[2:], "--evaluation_dir", wrong]) for wrong in (FILE, FOLDER)],
    (evaluate.main, [*CONFIG, *OWN[2:], "--completions", "answer.jsonl"]),
    (evaluate.main, [*CONFIG, *OWN[2:], "--protocol", "vlmr1", "--annotations", TYPO]),
    *[(main, [name, "recipe.yml"]) for name in ("train", "sft", "evaluate")],
    (main, ["train", "--config", "recipe.yml"]),
    (main, ["train", "recipe.yaml", "--accelerate_config", "zero4"]),
    *[(main, [name, "recipe.yaml", "--model_name_or_path", "./tiny"]) for name in ("train", "evaluate")],
    *[(main, ["init", there]) for there in (FOLDER, FILE)],
    (main, ["init", "mine", "--data", TYPO]),
    (main, ["init", "mine", "--data", FILE, "--model", "./tiny"]),
    (main, ["check-data", "recipe.yml"]),
    (main, ["check-data", TYPO]),
    (main, ["select", TYPO, "kept.yaml"]),
    (main, ["suggest-rewards", TYPO]),
    (main, ["suggest-rewards", "mydata/test.json", "--image_root", FILE]),
    (main, ["suggest-rewards", "mydata/test.json", "--output", "recipe.yaml"]),
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
    (main, ["report", "run", "--out", f"{FILE}/report"]),
    (main, ["suggest-rewards", "recipe.yaml"]),
    (main, ["suggest-rewards", "mydata/test.json", "--output", f"{FILE}/rewards.yaml"]),
    (facts.main, ["--out", FOLDER]),
    (facts.main, ["--out", FILE]),
    (smollm2.main, ["--out", FOLDER]),
    (build_tiny_policy.main, ["--out", FOLDER]),
    (build_tiny_reader.main, ["--out", FOLDER]),
    (launch.main, ["--config_file", "cpu.yml", "grpo.py", *CONFIG]),
    (launch.main, ["--config_file", FILE, "grpo.py", *CONFIG]),
]
COMMAND = re.compile(
    rf"(?:omnirl (?:{'|'.join(COMMANDS)})(?!-)|accelerate launch|python -m omnirl_core|recipes/[\w/]+\.py)"
    r"[^`\n\"#]*"
)


def name_of(start, argv: list[str]) -> str:
    """The subcommand of `omnirl`, or the module that starts."""
    return argv[0] if start is main else start.__module__.split(".")[-1]


def in_documents() -> Iterator[tuple[str, str]]:
    """(command, option) of every argument in a document that looks like a path."""
    listed = ["git", "ls-files", "*.md", "*.ipynb"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for file in files:
        for command in COMMAND.findall((ROOT / file).read_text("utf-8").replace("\\\n", " ")):
            yield from path_arguments(shlex.split(command.replace("'", "")))


def path_arguments(words: list[str]) -> Iterator[tuple[str, str]]:
    name = "launch" if words[0] == "accelerate" else ""
    option = ""
    for word in words:
        if word in COMMANDS:
            name = word
        if word.startswith("--"):
            option = word.partition("=")[0]
            continue
        if found := re.fullmatch(r"(?:[\w.]+/)+(\w+)\.py|omnirl_core\.(\w+)", word):
            name, option = (found[1] or found[2]), ""
        elif name and re.search(r"/|\.(ya?ml|jsonl?|html|txt)$", word):
            yield name, option
        option = option if option == "--annotations" else ""


def declared() -> Iterator[tuple[str, str]]:
    """(subcommand, option) of everything that a subcommand of `omnirl` declares as a path, or as its subject."""
    for name, (module, _) in COMMANDS.items():
        parser = argparse.ArgumentParser()
        import_module(module).add_arguments(parser)
        for action in parser._actions:
            is_path = action.type is Path or action.metavar in ("FILE", "FOLDER") or not action.option_strings
            if is_path and action.default != argparse.SUPPRESS:
                yield name, action.option_strings[0] if action.option_strings else ""


def tried() -> set[tuple[str, str]]:
    """(command, option) of every case; the last option is the wrong one, or what it is given for."""
    options = {(name_of(start, argv), word) for start, argv in CASES for word in argv if word.startswith("--")}
    return options | {(argv[0], "") for start, argv in CASES if start is main}


def test_every_path_argument_of_the_documents_and_of_each_subcommand_is_tried():
    named = {*in_documents(), *declared()}
    assert {
        ("grpo", "--config"),
        ("launch", "--config_file"),
        ("compare", ""),
        ("check-data", "--report"),
    } <= named
    assert not named - tried()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working folder with a recipe, a run, data and notes of the user's own."""
    folder = tmp_path_factory.mktemp("place")
    files = {
        "recipe.yaml": DEMO, "rewards.yaml": "rewards:\n- {name: think_format, weight: 0.2}\n- {name: exact}\n",
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
