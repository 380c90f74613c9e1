"""The demo, shortened: the same command, fewer and smaller steps."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked import environment, python

from omnirl_tools.evaluation.compare import compare

ROOT = Path(__file__).parents[2]
SHORT = [
    "--max_steps", "3", "--num_generations", "4", "--per_device_train_batch_size", "28", "--eval_rows", "21",
    "--logging_steps", "1", "--draw_shapes", '{"task": "mixed", "train": 70, "test": 21, "seed": 0}',
]  # fmt: skip


def demo(folder: Path, *more: str, is_forked: bool = True) -> str:
    """Run the demo's command as a user would, or in forks; return everything it printed."""
    data = folder / "data"
    launcher, program = (python(), ["--no_python", python()]) if is_forked else (sys.executable, [])
    command = [
        launcher, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml", *program,
        "recipes/grpo.py", "--config", "recipes/mixed/demo.yaml", *SHORT, "--output_dir", str(folder / "run"),
        "--dataset_name", str(data / "train.json"), "--eval_dataset_name", str(data / "test.json"), *more,
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=420,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder / "run", demo(folder, is_forked=False)


def test_it_prints_nothing_that_a_user_cannot_act_on(first):
    _, printed = first
    bad = re.compile(r"warn|deprecat|error|traceback|failed", re.IGNORECASE)
    complaints = [line for line in printed.splitlines() if bad.search(line)]
    assert not complaints


def test_it_ends_with_the_table_and_the_images(first):
    folder, printed = first
    for word in (
        "score",
        "accuracy",
        "modality text",
        "modality image",
        "modality multi-image",
        "95 % interval",
    ):
        assert word in printed
    last = [Path(line.strip()) for line in printed.strip().splitlines()[-2:]]
    assert last == [folder / "curves.png", folder / "completions.html"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "completions.html").read_text()
    assert "data:image/" in page
    assert not re.search(r"(src|href)=[\"']https?:", page), "the report needs no network"


def test_it_records_every_completion_and_step(first):
    folder, _ = first
    completions = lines(folder / "completions.jsonl")
    assert len(completions) == 3 * 28
    by_row: dict[tuple, int] = {}
    for line in completions:
        by_row[line["step"], line["row_id"]] = by_row.get((line["step"], line["row_id"]), 0) + 1
    assert set(by_row.values()) == {4}, "one group of four per row"
    assert {line["step"] for line in lines(folder / "metrics.jsonl") if "reward" in line} == {1, 2, 3}
    assert {line["modality"] for line in lines(folder / "after.jsonl")} == {"text", "image", "multi-image"}
    facts = json.loads((folder / "run.json").read_text())
    assert facts["config"]["max_steps"] == 3
    assert facts["versions"]["trl"].startswith("1.16")


def test_the_same_seed_gives_the_same_numbers(first, tmp_path):
    folder, _ = first
    demo(tmp_path)
    for name in ("completions.jsonl", "before.jsonl", "after.jsonl"):
        once, again = ([_reported(line) for line in lines(run / name)] for run in (folder, tmp_path / "run"))
        assert once == again, name


def _reported(line: dict) -> dict:
    """A line without the paths of its folder."""
    return {key: value for key, value in line.items() if key not in ("row_id", "images")}


def test_it_learns(tmp_path):
    """A quarter of the real demo: half as many prompts a step, half as many steps, held-out rows it has not met."""
    data = '{"task": "mixed", "train": 1400, "test": 210, "seed": 0}'
    demo(
        tmp_path, "--max_steps", "75", "--num_generations", "8", "--per_device_train_batch_size", "64",
        "--eval_rows", "210", "--draw_shapes", data,
    )  # fmt: skip
    changes = compare(lines(tmp_path / "run" / "before.jsonl"), lines(tmp_path / "run" / "after.jsonl"))
    found = {(change.measure, change.group): change for change in changes}
    assert found["score", "all"].difference >= 0.15
    assert found["accuracy", "all"].low > 0
    for modality in ("text", "image", "multi-image"):
        assert found["score", modality].difference > 0
