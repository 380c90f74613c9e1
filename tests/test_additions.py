"""What CONTRIBUTING.md says of additions: each touches at most three files, and is accepted."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

ROOT = Path(__file__).parents[1]
TREE = ("omnirl_core", "omnirl_tools", "recipes", "accelerate_configs", "scripts", "docs")

READER = """\
import csv

from omnirl_core.data.json_reader import RawRow


def read_psv(path, keep=None):
    with open(path, newline="") as file:
        for index, row in enumerate(csv.DictReader(file, delimiter="|")):
            if keep is None or index in keep:
                yield RawRow(index + 2, row)
"""
CHECK = """\
        if "?" not in record.problem:
            faults.append(Fault("question", f"{record.source}: no question mark"))
"""
RECIPE = """\
output_dir: outputs/sums
model_name_or_path: tiny_policy
dataset_name: sums.psv
rewards: recipes/sums/rewards.yaml
use_cpu: true
bf16: false
"""
ENGINE = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
use_cpu: true
num_processes: 2
mixed_precision: "no"
"""
ADDITIONS: dict[str, dict[str, str | list[tuple[str, str]]]] = {
    "a reward": {
        "omnirl_core/rewards/polite.py": "def polite(answer, reference):\n    return float('please' in answer)\n",
        "omnirl_core/rewards/registry.py": [('    "format": "think_format', '    "polite": "polite",\n')],
        "docs/rewards.md": [("| `think_format`", "| `polite` | whether the answer says please | | |\n")],
    },
    "a data format": {
        "omnirl_core/data/psv_reader.py": READER,
        "omnirl_core/data/tables.py": [
            ("from omnirl_core.data.record", "from omnirl_core.data.psv_reader import read_psv\n"),
            ('    ".jsonl": read_jsonl', '    ".psv": read_psv,\n'),
        ],
    },
    "a recipe": {
        "recipes/sums/README.md": "# Sums\n",
        "recipes/sums/demo.yaml": RECIPE,
        "recipes/sums/rewards.yaml": "rewards:\n- {name: polite, weight: 0.5}\n- {name: number}\n",
    },
    "a model family": {
        "scripts/model_families.py": [
            ('    "Llama (', '    "Mistral": text_only(hf.MistralConfig, hf.MistralForCausalLM),\n')
        ],
    },
    "a check": {
        "omnirl_tools/checks/row_check.py": [
            ('    "length": "', '    "question": "a problem that asks nothing",\n'),
            ("        if len(sizes) == len(set(", CHECK),
        ],
    },
    "an accelerate config": {"accelerate_configs/two.yaml": ENGINE},
}
"""What is added: file -> its text where it is new, else the lines to add, each before the one that starts so."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree with one of each added."""
    folder = tmp_path_factory.mktemp("tree")
    for name in TREE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for files in ADDITIONS.values():
        for name, change in files.items():
            path = folder / name
            assert path.exists() == isinstance(change, list), name
            if isinstance(change, str):
                path.parent.mkdir(exist_ok=True)
                path.write_text(change)
                continue
            text = path.read_text()
            for before, added in change:
                assert text.count(f"\n{before}") == 1, before
                text = text.replace(f"\n{before}", f"\n{added}{before}")
            path.write_text(text)
    (folder / "sums.psv").write_text("problem|solution\nWhat is 1 plus 2?|3\nAdd 1 and 1.|2\n")
    return folder


def in_tree(tree: Path, code: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("what", ADDITIONS)
def test_an_addition_touches_at_most_three_files_and_stands_in_the_map(what):
    assert len(ADDITIONS[what]) <= 3
    name = "a check of data or rewards" if what == "a check" else what
    assert f"| {name} |" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_format_is_read_and_the_check_reports(tree):
    code = "from omnirl_tools.cli import main; exit(main(['check-data', 'recipes/sums/demo.yaml', '--workers', '1']))"
    done = in_tree(tree, code)
    assert done.returncode == 1, done.stderr
    assert "2 rows" in done.stdout
    assert "sums.psv:3: no question mark" in done.stdout


def test_the_recipe_is_judged_by_the_reward(tree):
    code = "from omnirl_core.rewards import load_rewards; print([r.score('<answer>please</answer>', '3') for r in load_rewards('recipes/sums/rewards.yaml')])"  # fmt: skip  # noqa: E501
    done = in_tree(tree, code)
    assert done.stdout.strip() == "[1.0, 0.0]", done.stderr
    table = (tree / "docs" / "rewards.md").read_text().partition("## What there is")[2].partition("##")[0]
    assert "polite" in re.findall(r"`(\w+)`", table)


def test_the_model_family_is_built(tree):
    spec = importlib.util.spec_from_file_location("families_of_the_copy", tree / "scripts" / "model_families.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    processor, model = module.FAMILIES["Mistral"]()
    assert model.config.vocab_size == len(processor)


def test_the_accelerate_config_is_read(tree):
    assert load_config_from_file(str(tree / "accelerate_configs" / "two.yaml")).num_processes == 2
